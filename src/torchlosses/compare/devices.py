"""Where a training runs: plainly on the CPU, or where and in which precision Lightning Fabric places it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchlosses.compare.refusal import Refusal
from torchlosses.compare.table import needs


@dataclass(frozen=True)
class Device:
    """One CPU process in float32; with ``fabric``, one device and precision of its choice."""

    fabric: Any = None
    asked: tuple[int | None, str] = (None, "32-true")

    @property
    def target(self) -> torch.device:
        return torch.device("cpu") if self.fabric is None else self.fabric.device

    def place(self, model: nn.Module, loss: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """The model and its optimizer, on the device; the loss's own tensors are moved."""
        if self.fabric is None:
            return model, optimizer
        loss.to(self.target)
        model, placed = self.fabric.setup(model, optimizer)
        return model, placed

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.fabric is None else self.fabric.autocast()

    def backward(self, value: Tensor) -> None:
        if self.fabric is None:
            value.backward()
        else:
            self.fabric.backward(value)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is made anew."""
        return device, self.asked


def device(devices: int | None, precision: str) -> Device:
    """Without either option the plain CPU; otherwise Fabric's choice of device (a GPU where there is one).

    One training runs on one device; of several, each has a worker.
    """
    if devices is None and precision == "32-true":
        return Device()
    try:
        from lightning_fabric import Fabric
    except ModuleNotFoundError:
        raise needs("devices", "--devices and --precision", "lightning-fabric") from None
    make: Any = Fabric
    try:
        fabric = make(accelerator="auto" if devices is not None else "cpu", devices=1, precision=precision)
        fabric.launch()
    except (ValueError, RuntimeError) as problem:
        raise Refusal(f"--devices, --precision: {problem}") from None
    return Device(fabric, (devices, precision))
