"""What the user asked for, the command line that asks for it, and what makes two runs the same study."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from typing import Any

import torchlosses


@dataclass(frozen=True)
class Options:
    """The options of ``torchlosses compare``; ``time_limit`` in minutes."""

    data: str = "digits"
    task: str = "classification"
    losses: tuple[str, ...] = ()
    trials: int = 12
    seeds: int = 5
    epochs: int = 30
    out: str | None = None
    seed: int = 0
    time_limit: float | None = None
    label: str | None = None
    group: str | None = None
    left: str | None = None
    right: str | None = None
    text: str | None = None
    encoder: str = "mlp"
    noise: float = 0.0
    imbalance: float = 1.0
    unseen: tuple[str, ...] = ()
    yardstick: bool = True
    storage: str | None = None
    devices: int | None = None
    precision: str = "32-true"

    @property
    def command(self) -> str:
        """The command line that asks for the same; what is at its default is left out, but for the budget."""
        words = ["torchlosses", "compare", self.data, "--task", self.task]
        for loss in self.losses:
            words += ["--loss", loss]
        always = ("trials", "seeds", "epochs", "seed")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("data", "task", "losses", "storage"):  # a storage's address may hold a password
                continue
            if field.name == "yardstick":
                words += [] if value else ["--no-yardstick"]
            elif field.name in always or value != field.default:
                shown = f"{value:g}" if isinstance(value, float) else str(value)
                shown = ",".join(value) if isinstance(value, tuple) else shown
                words += ["--" + field.name.replace("_", "-"), shown]
        return shlex.join(words)

    def identity(self, fingerprint: str) -> dict[str, Any]:
        """Equal identities give equal metrics: the content of the data, and every option that a number depends on."""
        apart = ("data", "out", "time_limit", "storage")
        asked = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        asked |= {"devices": self.devices is not None}  # how many does not matter
        return {
            "data": fingerprint,
            **asked,
            "losses": list(self.losses),
            "unseen": list(self.unseen),
            "torchlosses": torchlosses.__version__,
        }
