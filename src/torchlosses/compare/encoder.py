"""The network that every objective trains: a small perceptron, one or two towers, and a head where a task has one."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


def mlp(features: int, hidden: int = 128, width: int = 64) -> nn.Sequential:
    """``features`` inputs, two hidden layers, an embedding of ``width`` numbers."""
    return nn.Sequential(
        nn.Linear(features, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, width),
    )


class Model(nn.Module):
    """Towers (one for each kind of input) and, with ``classes``, a weight and bias for each class.

    Made in this order from torch's generator: models of one seed have the same towers whatever their heads.
    """

    def __init__(self, features: tuple[int, ...], classes: int = 0, width: int = 64) -> None:
        super().__init__()
        self.towers = nn.ModuleList(mlp(size, width=width) for size in features)
        self.weight = nn.Parameter(torch.randn(classes, width) / width**0.5) if classes else None
        self.bias = nn.Parameter(torch.zeros(classes)) if classes else None

    def forward(self, x: Tensor, tower: int = 0) -> Tensor:
        return cast(Tensor, self.towers[tower](x))
