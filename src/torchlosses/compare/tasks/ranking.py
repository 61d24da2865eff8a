"""A scorer orders the documents of each query."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.compare.data import Data, Index
from torchlosses.compare.encoder import Maker, Model, mlp
from torchlosses.compare.metrics import Judged, ranked, ranking
from torchlosses.compare.splits import Split, by_group
from torchlosses.compare.tasks.base import Output, Task, nothing_left
from torchlosses.compare.tasks.classification import given, ids_code
from torchlosses.compare.tasks.forms import reads
from torchlosses.loss import Loss
from torchlosses.targets import graded

QUERIES = 16  # of a batch


class Ranking(Task):
    """Lists of graded documents, one list a query; each document is scored by itself."""

    name = "ranking"
    metrics = ("ndcg_at_10", "map", "mrr")
    unit = "query"

    def __init__(self, data: Data, seed: int, make: Maker = mlp) -> None:
        assert data.group is not None
        kept, dropped = _useful(data.group, data.y)
        if not len(kept):
            raise nothing_left(f"every one of {dropped} groups has no relevant document or one grade only")
        split = by_group(data.group[kept], seed, "groups with more than one grade")
        split = Split(*(kept[getattr(split, part)] for part in ("train", "validation", "test")))
        super().__init__(data, split, make)
        if dropped:
            total = len(np.unique(data.group))
            self.notes.append(
                f"{dropped} of {total} groups have no relevant document or one grade only: they carry no loss and no metric"
            )
        self.lists = {part: _padded(data.group, getattr(split, part)) for part in ("train", "validation", "test")}
        self.y = torch.from_numpy(data.y.astype(np.float32))
        self.facts = {"examples": self.size, "num_examples": self.size}

    @property
    def size(self) -> int:
        return len(self.lists["train"])

    @property
    def batch(self) -> int:
        return min(QUERIES, self.size)

    def check(self, loss: Loss) -> None:
        reads(loss, "graded", self.name)

    def model(self, card: Card) -> Model:
        return Model(self.make, (self.data.shape,), self.width, 1)

    def _scores(self, model: Model, lists: Tensor) -> Tensor:
        """(Q, L) scores, 0 where a list has ended."""
        valid = lists >= 0
        z = model(self.x[lists[valid]])
        assert model.weight is not None and model.bias is not None
        found = z.new_zeros(lists.shape)
        found[valid] = z @ model.weight[0] + model.bias
        return cast(Tensor, found)

    def value(self, model: Model, loss: Loss, card: Card, rows: Tensor) -> Tensor:
        lists = self.lists["train"].to(rows.device)[rows]
        lists = lists[:, : int((lists >= 0).sum(1).max())]
        targets = graded(self.y[lists.clamp(min=0)], lists >= 0).given(ids=rows)
        found: Tensor = loss(self._scores(model, lists), targets)
        return found

    def predict(self, model: Model, loss: Loss, card: Card, part: str) -> Output:
        return self._scores(model, self.lists[part].to(self.x.device)).float().cpu().numpy()

    def judge(self, part: str, output: Output, validation: Output | None = None) -> Judged:
        lists = self.lists[part].numpy()
        grades = np.where(lists >= 0, self.data.y[np.maximum(lists, 0)], 0)
        return Judged(ranking(ranked(output, grades, lists >= 0), self.metrics), {})

    def call(self, loss: Loss, card: Card) -> str:
        return f"loss(scorer(documents).squeeze(-1), torchlosses.graded(relevance, mask){given(loss)})"

    def stand_in(self, loss: Loss, card: Card) -> list[str]:
        features = int(np.prod(self.data.shape))
        longest = self.lists["train"].shape[1]
        return [
            f"documents = torch.randn({self.batch}, {longest}, {features})  # the documents of each query",
            f"relevance = torch.randint(5, ({self.batch}, {longest}))  # their grades",
            f"mask = torch.ones({self.batch}, {longest}, dtype=torch.bool)  # False where a shorter list has ended",
            f"scorer = torch.nn.Linear({features}, 1)",
            *ids_code(self, loss),
        ]


def _useful(group: Index, grades: Index) -> tuple[Index, int]:
    """Rows of groups with at least two grades, which holds one above 0; how many groups are none of these."""
    kinds, index = np.unique(group, return_inverse=True)
    low, high = np.full(len(kinds), np.inf), np.full(len(kinds), -np.inf)
    np.minimum.at(low, index, grades)
    np.maximum.at(high, index, grades)
    good = high > low
    return np.flatnonzero(good[index]).astype(np.int64), int((~good).sum())


def _padded(group: Index, rows: Index) -> Tensor:
    """(Q, L) row numbers of each group, -1 where it has ended."""
    _, index, counts = np.unique(group[rows], return_inverse=True, return_counts=True)
    order = np.argsort(index, kind="stable")
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = np.full((len(counts), counts.max()), -1, dtype=np.int64)
    found[index[order], place] = rows[order]
    return torch.from_numpy(found)
