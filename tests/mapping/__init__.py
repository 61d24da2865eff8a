"""How golden cases are computed with this library: one function per recipe, values and hyperparameters from the files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Computed = Tensor | dict[str, Tensor]


class Case:
    """A golden case: ``case["scores"]`` is an input (differentiable where golden), ``case.hp`` its settings."""

    def __init__(self, entry: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.entry, self.arrays = entry, arrays
        self.name: str = entry["case"]
        self.hp: dict[str, Any] = entry.get("hyperparameters") or {}
        self.reduction: str = entry.get("reduction") or ""
        self.inputs: dict[str, Tensor] = {}
        for name, array in arrays.items():
            if name.startswith("in."):
                key = name[3:]
                tensor = torch.as_tensor(array).clone()
                tensor.requires_grad_(f"grad.{key}" in arrays and tensor.is_floating_point())
                self.inputs[key] = tensor

    def __getitem__(self, name: str) -> Tensor:
        return self.inputs[name]

    def __contains__(self, name: str) -> bool:
        return name in self.inputs

    def golden(self, name: str) -> Tensor:
        return torch.as_tensor(self.arrays[name])


MAPPING: dict[str, Callable[[Case], Computed]] = {}


def recipe(*names: str) -> Callable[[Callable[[Case], Computed]], Callable[[Case], Computed]]:
    """Registers the computation of recipes. Return out.loss, or a dict of ``out`` names (with 'loss') to tensors.

    Gradients are taken of the sum of 'loss' with respect to the inputs that have a golden ``grad.<name>``; a dict may
    give 'grad.<name>' itself where the golden gradient is of something else.
    """

    def register(function: Callable[[Case], Computed]) -> Callable[[Case], Computed]:
        for name in names:
            if name in MAPPING:
                raise ValueError(f"recipe {name} is mapped twice")
            MAPPING[name] = function
        return function

    return register
