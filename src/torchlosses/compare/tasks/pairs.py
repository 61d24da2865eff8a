"""Two towers: for each left side its right alternatives are found."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from torchlosses.card import Card
from torchlosses.compare.data import Data, Floats, Index
from torchlosses.compare.encoder import Maker, Model, mlp, width_of
from torchlosses.compare.metrics import Judged, ranked, ranking
from torchlosses.compare.refusal import Refusal
from torchlosses.compare.splits import Split, by_group, scaled
from torchlosses.compare.tasks.base import Output, Task, nothing_left
from torchlosses.compare.tasks.classification import given, ids_code
from torchlosses.compare.tasks.forms import can_read, compared, compared_code, similarity
from torchlosses.loss import Loss, RowLoss, SetLoss
from torchlosses.targets import graded, paired


class Pairs(Task):
    """Judged pairs of two kinds of things; or, of data without sides, the two halves of each example's features.

    Left sides are divided into parts. Where a left or right side stands in several rows, the right sides are one
    collection, searched whole; otherwise each part's left sides search their own right sides. A pair that nobody judged
    counts as grade 0.
    """

    name = "pairs"
    unit = "query"

    def __init__(self, data: Data, seed: int, make: Maker = mlp) -> None:
        data, judged = _sides(data)
        assert data.right is not None
        self.query = _ids(data.x) if judged else np.arange(len(data))
        self.item = _ids(data.right) if judged else np.arange(len(data))
        self.collection = judged and max(np.bincount(self.query).max(), np.bincount(self.item).max()) > 1
        good = np.unique(self.query[data.y > 0])
        missing = len(np.unique(self.query)) - len(good)
        if not len(good):
            raise nothing_left("no left side has a right one with a grade above 0")
        kept = np.isin(self.query, good)
        split = by_group(np.where(kept, self.query, -1)[kept], seed, "left sides")
        rows = np.flatnonzero(kept)
        split = Split(*(rows[getattr(split, part)] for part in ("train", "validation", "test")))
        super().__init__(data, split, make)
        if missing:
            self.notes.append(f"{missing} left sides have no right one with a grade above 0: they are left out")
        right = data.right if data.texts else scaled(data.right, split.train)
        self.right = torch.from_numpy(right)
        if width_of(make, self.right[0]) != self.width:
            raise Refusal("--encoder: it gives left and right sides different widths")
        several = len(np.unique(data.y[data.y > 0])) > 1
        self.metrics = ("ndcg_at_10", "map", "mrr", "recall_at_1") if several else ("mrr", "recall_at_1", "recall_at_10")
        self.first_of_item = np.unique(self.item, return_index=True)[1]  # a row that holds each right side
        self.grades = _matrix(self.query, self.item, data.y)
        self.positive = torch.from_numpy(split.train[data.y[split.train] > 0])
        size = len(self.positive)
        self.facts = {"examples": size, "num_examples": size}

    @property
    def size(self) -> int:
        return len(self.positive)

    def check(self, loss: Loss) -> None:
        if isinstance(loss, RowLoss) and not can_read(loss, "paired"):
            raise TypeError(f"{type(loss).__name__} does not read paired() targets, which pairs has")

    def model(self, card: Card) -> Model:
        return Model(self.make, (tuple(self.x.shape[1:]), tuple(self.right.shape[1:])), self.width)

    def value(self, model: Model, loss: Loss, card: Card, rows: Tensor) -> Tensor:
        chosen = self.positive[rows]
        queries, keys = model(self.x[chosen], 0), model(self.right[chosen], 1)
        found: Tensor
        if isinstance(loss, SetLoss):
            found = loss(queries, keys)
        elif self.collection and can_read(loss, "graded"):
            picked = chosen.cpu().numpy()
            relevance = torch.from_numpy(self.grades[self.query[picked]][:, self.item[picked]].toarray())
            found = loss(compared(loss, card, queries, keys), graded(relevance.to(queries.device)).given(ids=rows))
        else:
            found = loss(compared(loss, card, queries, keys), paired().given(ids=rows))
        return found

    def sides(self, part: str) -> tuple[Index, Index]:
        """A row of each left side of a part, and of each right side that it searches."""
        rows = getattr(self.split, part)
        lefts = rows[np.unique(self.query[rows], return_index=True)[1]]
        rights = self.first_of_item if self.collection else rows[np.unique(self.item[rows], return_index=True)[1]]
        return lefts, rights

    def predict(self, model: Model, loss: Loss, card: Card, part: str) -> Output:
        lefts, rights = self.sides(part)
        return similarity(card, model(self.x[lefts], 0), model(self.right[rights], 1)).float().cpu().numpy()

    def judge(self, part: str, output: Output, validation: Output | None = None) -> Judged:
        lefts, rights = self.sides(part)
        grades = self.grades[self.query[lefts]][:, self.item[rights]].toarray()
        return Judged(ranking(ranked(output, grades), self.metrics), {})

    def call(self, loss: Loss, card: Card) -> str:
        if isinstance(loss, SetLoss):
            return "loss(encoder(left), encoder_of_right(right))"
        targets = "graded(relevance)" if self.collection and can_read(loss, "graded") else "paired()"
        scores = compared_code(loss, card, "encoder(left), encoder_of_right(right)")
        return f"loss({scores}, torchlosses.{targets}{given(loss)})"

    def stand_in(self, loss: Loss, card: Card) -> list[str]:
        lines = []
        for name, encoder, side in (("left", "encoder", self.x), ("right", "encoder_of_right", self.right)):
            shape = ", ".join(str(size) for size in (self.batch, *side.shape[1:]))
            features = side[0].numel()
            lines.append(f"{name} = torch.randn({shape})")
            lines.append(f"{encoder} = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear({features}, {self.width}))")
        if self.collection and isinstance(loss, RowLoss) and can_read(loss, "graded"):
            lines.append(f"relevance = torch.eye({self.batch})  # the grade of each left side with each right side")
        return lines + ids_code(self, loss)


def _sides(data: Data) -> tuple[Data, bool]:
    """The data with two sides, and whether they were given."""
    from dataclasses import replace

    if data.right is not None:
        return data, True
    flat = data.x.reshape(len(data), -1)
    if flat.shape[1] < 2:
        raise Refusal("x: pairs needs at least 2 features, which it divides into two halves, got 1")
    half = flat.shape[1] // 2
    halves = replace(data, x=flat[:, :half], right=flat[:, half:], y=np.ones(len(data)), labels=(), group=None)
    return halves, False


def _ids(x: Floats) -> Index:
    """Equal rows have equal numbers."""
    flat = np.ascontiguousarray(x.reshape(len(x), -1))
    rows = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
    found: Index = np.unique(rows, return_inverse=True)[1].astype(np.int64)
    return found


def _matrix(query: Index, item: Index, grades: NDArray[np.float64]) -> csr_matrix:
    """The best grade of each pair."""
    shape = int(query.max()) + 1, int(item.max()) + 1
    order = np.argsort(-grades, kind="stable")
    _, first = np.unique(query[order] * shape[1] + item[order], return_index=True)
    kept = order[first]
    return csr_matrix((grades[kept].astype(np.float32), (query[kept], item[kept])), shape=shape)
