"""Embeddings trained on some classes retrieve others: each row of the held-out part is a query for its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.compare.data import Data
from torchlosses.compare.encoder import Maker, Model, mlp
from torchlosses.compare.metrics import Judged, ranked, ranking
from torchlosses.compare.refusal import Refusal
from torchlosses.compare.splits import by_class
from torchlosses.compare.tasks.base import Output, Task
from torchlosses.compare.tasks.classification import encoder_code, facts, given, head_lines, ids_code
from torchlosses.compare.tasks.forms import compared, compared_code, head_code, head_scores, reads, similarity
from torchlosses.loss import Loss
from torchlosses.targets import classes, same_label

PER_CLASS = 4  # rows of one class side by side in a batch, so that every batch has positives


class Retrieval(Task):
    """Which rows have the query's label."""

    name = "retrieval"
    metrics = ("map_at_r", "recall_at_1", "mrr")
    unit = "query"

    def __init__(self, data: Data, seed: int, make: Maker = mlp, unseen: Sequence[str] = ()) -> None:
        if data.y.ndim != 1:
            raise Refusal("y: retrieval needs one class for each example, the data has several labels")
        kept = np.flatnonzero(np.bincount(data.y)[data.y] > 1)
        alone = len(data) - len(kept)
        if alone:
            old, index = np.unique(data.y[kept], return_inverse=True)
            data = replace(data.at(kept), y=index.astype(np.int64), labels=tuple(data.labels[k] for k in old))
        super().__init__(data, by_class(data, seed, unseen), make)
        if alone:
            self.notes.append(f"{alone} examples are the only ones of their class: they are left out")
        self.train = torch.from_numpy(self.split.train)
        seen, index = np.unique(data.y[self.split.train], return_inverse=True)
        self.y = torch.from_numpy(index.astype(np.int64))
        self.classes = len(seen)
        self.facts = facts(torch.bincount(self.y, minlength=self.classes), len(self.train))

    @staticmethod
    def headed(card: Card) -> bool:
        """Whether the loss learns from a head over the training classes; otherwise from the batch's own pairs."""
        return card.family in ("classification", "margin")

    @property
    def size(self) -> int:
        return len(self.train)

    def order(self, generator: torch.Generator) -> Tensor:
        """Rows of one class in groups, the groups shuffled."""
        groups: list[Tensor] = []
        for label in range(self.classes):
            rows = torch.nonzero(self.y == label).squeeze(1)
            groups += rows[torch.randperm(len(rows), generator=generator)].split(PER_CLASS)
        shuffled = torch.randperm(len(groups), generator=generator).tolist()
        return torch.cat([groups[k] for k in shuffled])

    def check(self, loss: Loss) -> None:
        card = loss.card
        reads(loss, "classes" if card is not None and self.headed(card) else "same_label", self.name)

    def model(self, card: Card) -> Model:
        return Model(self.make, (self.data.shape,), self.width, self.classes if self.headed(card) else 0)

    def value(self, model: Model, loss: Loss, card: Card, rows: Tensor) -> Tensor:
        z = model(self.x[self.train[rows]])
        found: Tensor
        if self.headed(card):
            found = loss(head_scores(model, card, z), classes(self.y[rows]).given(ids=rows))
        else:
            found = loss(compared(loss, card, z), same_label(self.y[rows]).given(ids=rows))
        return found

    def predict(self, model: Model, loss: Loss, card: Card, part: str) -> Output:
        return similarity(card, model(self.x[getattr(self.split, part)])).float().cpu().numpy()

    def judge(self, part: str, output: Output, validation: Output | None = None) -> Judged:
        labels = self.data.y[getattr(self.split, part)]
        grades = labels[:, None] == labels
        found = ranked(output, grades, ~np.eye(len(labels), dtype=bool))[:, :-1]
        return Judged(ranking(found, self.metrics), {})

    def call(self, loss: Loss, card: Card) -> str:
        if self.headed(card):
            return f"loss({head_code(card)}, torchlosses.classes(y){given(loss)})"
        return f"loss({compared_code(loss, card, 'encoder(x)')}, torchlosses.same_label(y){given(loss)})"

    def stand_in(self, loss: Loss, card: Card) -> list[str]:
        lines = [*encoder_code(self), f"y = torch.randint({self.classes}, ({self.batch},))"]
        lines += head_lines(card, self.classes, self.width) if self.headed(card) else []
        return lines + ids_code(self, loss)
