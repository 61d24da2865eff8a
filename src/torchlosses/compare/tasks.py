"""What each task feeds a loss, and how it judges the encoder that comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from torchlosses.card import Card
from torchlosses.compare.data import Data, Index, Split, by_class, by_example, by_row, scaled
from torchlosses.compare.encoder import Model
from torchlosses.compare.refusal import Refusal
from torchlosses.loss import Loss, RowLoss, SetLoss
from torchlosses.scores import Scores, cosine, dot, euclidean, linear
from torchlosses.targets import VIEWS, Targets, classes, paired, same_label

BATCH = 128
PER_CLASS = 4  # rows of one class side by side in a retrieval batch, so that every batch has positives
SCALE = 20.0  # of cosines, for losses that expect unbounded scores and own no temperature


class Task:
    """Data split and scaled for one task. ``metric`` chooses settings on validation; ``metrics`` are all reported."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]

    def __init__(self, data: Data, split: Split) -> None:
        self.data, self.split = data, split
        self.x = torch.from_numpy(scaled(data.x, split.train))
        seen, index = np.unique(data.y[split.train], return_inverse=True)
        self.y = torch.from_numpy(index.astype(np.int64))
        self.train = torch.from_numpy(split.train)
        self.classes = len(seen)
        counts = torch.bincount(self.y, minlength=self.classes)
        size = len(split.train)
        self.facts: dict[str, Any] = {  # of the training split, for losses that declare such data
            "class_counts": counts,
            "examples": size,
            "num_examples": size,
            "classes": self.classes,
            "num_classes": self.classes,
        }

    @property
    def metric(self) -> str:
        return self.metrics[0]

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        size = len(self.train)
        return max(1, size // BATCH)

    def epoch(self, generator: torch.Generator) -> Iterator[Tensor]:
        """The batches of one pass: positions in the training split, the rest that fills no batch left out."""
        order = self.order(generator)
        size = min(BATCH, len(order))
        for step in range(self.steps):
            yield order[step * size : (step + 1) * size]

    def order(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(self.train), generator=generator)

    def check(self, loss: Loss) -> None:
        """Raises TypeError where the loss cannot read what the task has."""
        raise NotImplementedError

    def model(self, card: Card) -> Model:
        raise NotImplementedError

    def value(self, model: Model, loss: Loss, card: Card, rows: Tensor) -> Tensor:
        """The loss on a batch."""
        raise NotImplementedError

    def evaluate(self, model: Model, loss: Loss, card: Card, rows: Index) -> dict[str, float]:
        """The metrics on some rows of the data."""
        raise NotImplementedError

    def call(self, card: Card) -> str:
        """How one calls the loss in a training loop, as code."""
        raise NotImplementedError


class Classification(Task):
    """A head on the encoder tells the classes apart."""

    name = "classification"
    metrics = ("accuracy", "macro_f1")

    def __init__(self, data: Data, seed: int) -> None:
        super().__init__(data, by_example(data, seed))

    def check(self, loss: Loss) -> None:
        _reads(loss, "classes", self.name)

    def model(self, card: Card) -> Model:
        return Model((self.x.shape[1],), self.classes)

    def value(self, model: Model, loss: Loss, card: Card, rows: Tensor) -> Tensor:
        return _head_value(self, model, loss, card, rows)

    def evaluate(self, model: Model, loss: Loss, card: Card, rows: Index) -> dict[str, float]:
        assert isinstance(loss, RowLoss)
        predicted = loss.predict(_head_scores(model, loss, card, model(self.x[rows]))).argmax(-1).numpy()
        truth = self.data.y[rows]
        return {
            "accuracy": float(accuracy_score(truth, predicted)),
            "macro_f1": float(f1_score(truth, predicted, average="macro")),
        }

    def call(self, card: Card) -> str:
        return f"loss({_form(card)[0]}(encoder(x), weight), torchlosses.classes(y))"


class Retrieval(Task):
    """Embeddings trained on some classes retrieve others: each row of the held-out part is a query for its class."""

    name = "retrieval"
    metrics = ("map_at_r", "recall_at_1")

    def __init__(self, data: Data, seed: int) -> None:
        super().__init__(data, by_class(data, seed))

    @staticmethod
    def headed(card: Card) -> bool:
        """Whether the loss learns from a head over the training classes; otherwise from the batch's own pairs."""
        return card.family in ("classification", "margin")

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
        _reads(loss, "classes" if card is not None and self.headed(card) else "same_label", self.name)

    def model(self, card: Card) -> Model:
        return Model((self.x.shape[1],), self.classes if self.headed(card) else 0)

    def value(self, model: Model, loss: Loss, card: Card, rows: Tensor) -> Tensor:
        if self.headed(card):
            return _head_value(self, model, loss, card, rows)
        z = model(self.x[self.train[rows]])
        found: Tensor = loss(_compare(loss, card, z), same_label(self.y[rows]).given(ids=rows))
        return found

    def evaluate(self, model: Model, loss: Loss, card: Card, rows: Index) -> dict[str, float]:
        scores = _similarity(card, model(self.x[rows])).fill_diagonal_(-torch.inf)
        return retrieval_metrics(scores.numpy(), self.data.y[rows])

    def call(self, card: Card) -> str:
        if self.headed(card):
            return f"loss({_form(card)[0]}(encoder(x), weight), torchlosses.classes(y))"
        return f"loss({_form(card)[1]}(encoder(x)), torchlosses.same_label(y))"


class Pairs(Task):
    """Two towers: from the first half of an example's features (an image's upper half) its second half is found."""

    name = "pairs"
    metrics = ("mrr", "recall_at_1")

    def __init__(self, data: Data, seed: int) -> None:
        if data.x.shape[1] < 2:
            raise Refusal("x: pairs needs at least 2 features, which it divides into two halves, got 1")
        super().__init__(data, by_row(data, seed))
        half = self.x.shape[1] // 2
        self.sides = self.x[:, :half], self.x[:, half:]

    def check(self, loss: Loss) -> None:
        if isinstance(loss, RowLoss):
            _reads(loss, "paired", self.name)

    def model(self, card: Card) -> Model:
        return Model((self.sides[0].shape[1], self.sides[1].shape[1]))

    def _towers(self, model: Model, rows: Tensor) -> tuple[Tensor, Tensor]:
        return model(self.sides[0][rows], 0), model(self.sides[1][rows], 1)

    def value(self, model: Model, loss: Loss, card: Card, rows: Tensor) -> Tensor:
        queries, keys = self._towers(model, self.train[rows])
        found: Tensor
        if isinstance(loss, SetLoss):
            found = loss(queries, keys)
        else:
            found = loss(_compare(loss, card, queries, keys), paired().given(ids=rows))
        return found

    def evaluate(self, model: Model, loss: Loss, card: Card, rows: Index) -> dict[str, float]:
        queries, keys = self._towers(model, torch.from_numpy(rows))
        return pair_metrics(_similarity(card, queries, keys).numpy())

    def call(self, card: Card) -> str:
        if card.scores == "none":
            return "loss(encoder(left), encoder_of_right(right))"
        return f"loss({_form(card)[1]}(encoder(left), encoder_of_right(right)), torchlosses.paired())"


TASKS: dict[str, type[Classification] | type[Retrieval] | type[Pairs]] = {
    task.name: task for task in (Classification, Retrieval, Pairs)
}


def retrieval_metrics(scores: NDArray[np.float32], labels: Index) -> dict[str, float]:
    """Recall@1 and mAP@R of every row as a query among the others; equal scores in the order of the rows.

    R is the number of other rows with the query's label; mAP@R sums the precision at each right place up to R and
    divides by R. Queries without another row of their label are left out.

    >>> import numpy as np
    >>> scores = np.array([[-np.inf, 2, 1], [2, -np.inf, 3], [1, 3, -np.inf]])
    >>> retrieval_metrics(scores, np.array([0, 0, 1]))
    {'map_at_r': 0.5, 'recall_at_1': 0.5}
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :-1]
    right = labels[order] == labels[:, None]
    total = right.sum(axis=1)
    kept = total > 0
    if not kept.any():
        return {"map_at_r": 0.0, "recall_at_1": 0.0}
    right, total = right[kept], total[kept]
    places = np.arange(1, right.shape[1] + 1)
    precision = right.cumsum(axis=1) / places
    counted = right & (places <= total[:, None])
    return {
        "map_at_r": float(((precision * counted).sum(axis=1) / total).mean()),
        "recall_at_1": float(right[:, 0].mean()),
    }


def pair_metrics(scores: NDArray[np.float32]) -> dict[str, float]:
    """Mean reciprocal rank and recall@1 of column i for row i; a tie counts against the row.

    >>> import numpy as np
    >>> pair_metrics(np.array([[3.0, 1.0], [2.0, 1.0]]))
    {'mrr': 0.75, 'recall_at_1': 0.5}
    """
    rank = (scores >= np.diagonal(scores)[:, None]).sum(axis=1)
    return {"mrr": float((1.0 / rank).mean()), "recall_at_1": float((rank == 1).mean())}


def _reads(loss: Loss, kind: str, task: str) -> None:
    name = type(loss).__name__
    if not isinstance(loss, RowLoss):
        raise TypeError(f"{name} is not a rule of rows, {task} cannot use it")
    if not set(VIEWS[kind]) & set(loss.accepts):
        raise TypeError(f"{name} does not read {kind}() targets, which {task} has")


def _form(card: Card) -> tuple[str, str]:
    """Names of the scores of a head and of a comparison of embeddings."""
    head = "torchlosses.cosine" if card.scores == "cosine" else "torchlosses.linear"
    form = card.scores if card.scores in ("dot", "euclidean") else "cosine"
    return head, f"torchlosses.{form}"


def _head_scores(model: Model, loss: Loss, card: Card, z: Tensor) -> Scores:
    assert model.weight is not None
    return cosine(z, model.weight) if card.scores == "cosine" else linear(z, model.weight, model.bias)


def _head_value(task: Task, model: Model, loss: Loss, card: Card, rows: Tensor) -> Tensor:
    targets: Targets = classes(task.y[rows]).given(ids=rows)
    found: Tensor = loss(_head_scores(model, loss, card, model(task.x[task.train[rows]])), targets)
    return found


def _compare(loss: Loss, card: Card, queries: Tensor, keys: Tensor | None = None) -> Scores:
    """Scores of embeddings in the form that the loss is usually fed."""
    if card.scores in ("dot", "euclidean"):
        return (dot if card.scores == "dot" else euclidean)(queries, keys)
    found = cosine(queries, keys)
    owns_scale = isinstance(loss, RowLoss) and loss.prescale() is not None
    return found if card.scores == "cosine" or owns_scale else found * SCALE


def _similarity(card: Card, queries: Tensor, keys: Tensor | None = None) -> Tensor:
    """The same form for the evaluation, where a scale changes nothing."""
    form = {"dot": dot, "euclidean": euclidean}.get(card.scores, cosine)
    return form(queries, queries if keys is None else keys).tensor()
