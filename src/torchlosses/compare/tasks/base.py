"""A task: data split and scaled, batches, and what every task answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from torchlosses.card import Card
from torchlosses.compare.data import Data
from torchlosses.compare.encoder import Maker, Model, mlp, width_of
from torchlosses.compare.metrics import METRICS, Judged
from torchlosses.compare.refusal import Refusal
from torchlosses.compare.splits import Split, scaled
from torchlosses.loss import Loss

BATCH = 128
Output = NDArray[Any]  # what a model says of one part: probabilities or scores, one row for each example or query


class Task:
    """Data split and scaled for one task. ``metric`` chooses settings on validation; ``metrics`` are all reported."""

    name: ClassVar[str]
    metrics: tuple[str, ...] = ()
    unit: ClassVar[str] = "example"  # what is resampled and permuted

    def __init__(self, data: Data, split: Split, make: Maker = mlp) -> None:
        self.data, self.split, self.make = data, split, make
        self.notes: list[str] = []
        x = data.x if data.texts else scaled(data.x, split.train)
        self.x = torch.from_numpy(x)
        self.width = width_of(make, self.x[0])
        self.facts: dict[str, Any] = {}  # of the training split, for losses that declare such data

    @property
    def metric(self) -> str:
        return self.metrics[0]

    @property
    def counted(self) -> tuple[str, ...]:
        """Metrics that are means over examples."""
        return tuple(name for name in self.metrics if METRICS[name].each)

    @property
    def size(self) -> int:
        """Examples (queries, classes' rows) that batches are drawn from."""
        raise NotImplementedError

    @property
    def batch(self) -> int:
        return min(BATCH, self.size)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return max(1, self.size // self.batch)

    def epoch(self, generator: torch.Generator) -> Iterator[Tensor]:
        """The batches of one pass: positions in the training split, the rest that fills no batch left out."""
        order = self.order(generator)
        for step in range(self.steps):
            yield order[step * self.batch : (step + 1) * self.batch]

    def order(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(self.size, generator=generator)

    def to(self, target: torch.device) -> None:
        """Moves what batches are taken from."""
        if target.type == "cpu":
            return
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(target))

    def check(self, loss: Loss) -> None:
        """Raises TypeError where the loss cannot read what the task has."""
        raise NotImplementedError

    def model(self, card: Card) -> Model:
        raise NotImplementedError

    def value(self, model: Model, loss: Loss, card: Card, rows: Tensor) -> Tensor:
        """The loss on a batch."""
        raise NotImplementedError

    def predict(self, model: Model, loss: Loss, card: Card, part: str) -> Output:
        """What the model says of a part of the data."""
        raise NotImplementedError

    def judge(self, part: str, output: Output, validation: Output | None = None) -> Judged:
        """The metrics of an output on a part; the output on validation is what a temperature is fitted on."""
        raise NotImplementedError

    def call(self, loss: Loss, card: Card) -> str:
        """How one calls the loss in a training loop, as code on the names of :meth:`stand_in`."""
        raise NotImplementedError

    def stand_in(self, loss: Loss, card: Card) -> list[str]:
        """Lines of code that make what :meth:`call` names, in the shapes that the data have."""
        raise NotImplementedError

    def described(self) -> dict[str, Any]:
        """The data in numbers."""
        return {
            "name": self.data.name,
            "examples": len(self.data),
            "shape": list(self.data.shape),
            "classes": len(self.data.labels),
            "fingerprint": self.data.fingerprint,
            "split": self.split.sizes(),
        }


def nothing_left(what: str) -> Refusal:
    return Refusal(f"DATA: nothing is left to train on: {what}")
