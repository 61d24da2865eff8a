"""A head on the encoder tells classes apart, or says which of several labels hold."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from torchlosses.card import Card
from torchlosses.compare.damage import flipped, thinned
from torchlosses.compare.data import Data
from torchlosses.compare.encoder import Maker, Model, mlp
from torchlosses.compare.metrics import Judged, Values, calibration_error, ranked, ranking, temperature, tempered
from torchlosses.compare.refusal import Refusal
from torchlosses.compare.splits import Split, by_example, by_group, several_classes
from torchlosses.compare.tasks.base import Output, Task, nothing_left
from torchlosses.compare.tasks.forms import head_code, head_name, head_scores, reads
from torchlosses.loss import Loss, RowLoss
from torchlosses.targets import Targets, classes, multi_label


class Classification(Task):
    """One class for each example, or zeros and ones for each label."""

    name = "classification"
    metrics: tuple[str, ...] = ("accuracy", "macro_f1", "nll", "calibration")

    def __init__(self, data: Data, seed: int, make: Maker = mlp, noise: float = 0.0, imbalance: float = 1.0) -> None:
        self.several = data.y.ndim == 2
        if self.several and (noise or imbalance > 1):
            raise Refusal("--noise and --imbalance: they need one class for each example, the data has several labels")
        split = self._split(data, seed)
        train = split.train if imbalance <= 1 else thinned(data, split.train, imbalance, seed)
        super().__init__(data, Split(train, split.validation, split.test), make)
        known = flipped(data, train, noise, seed) if noise else data.y
        self.y = torch.from_numpy(known[train])
        self.train = torch.from_numpy(train)
        self.rows = {"validation": self.split.validation, "test": self.split.test}
        if self.several:
            self.metrics = ("label_map", "top_right")
            self._leave_out_unlabelled()
        counts = self.y.sum(0).long() if self.several else torch.bincount(self.y, minlength=len(data.labels))
        self.facts = facts(counts, len(train))

    @staticmethod
    def _split(data: Data, seed: int) -> Split:
        if data.y.ndim == 2:
            return by_group(np.arange(len(data)) if data.group is None else data.group, seed, "examples")
        if data.group is None:
            return by_example(data, seed)
        several_classes(data)
        split = by_group(data.group, seed)
        missing = np.setdiff1d(np.arange(len(data.labels)), data.y[split.train])
        if len(missing):
            raise Refusal(f"too few groups: no training example of class {data.labels[missing[0]]} is left")
        return split

    def _leave_out_unlabelled(self) -> None:
        unlabelled = 0
        for part, rows in self.rows.items():
            kept = self.data.y[rows].any(axis=1)
            unlabelled += int((~kept).sum())
            self.rows[part] = rows[kept]
            if not kept.any():
                raise nothing_left(f"no {part} example has a label")
        if unlabelled:
            self.notes.append(f"{unlabelled} examples to validate or test on have no label: they have no metric")

    @property
    def size(self) -> int:
        return len(self.train)

    def check(self, loss: Loss) -> None:
        reads(loss, "multi_label" if self.several else "classes", self.name)

    def model(self, card: Card) -> Model:
        return Model(self.make, (self.data.shape,), self.width, len(self.data.labels))

    def value(self, model: Model, loss: Loss, card: Card, rows: Tensor) -> Tensor:
        y = self.y[rows]
        targets: Targets = multi_label(y > 0) if self.several else classes(y)
        found: Tensor = loss(head_scores(model, card, model(self.x[self.train[rows]])), targets.given(ids=rows))
        return found

    def predict(self, model: Model, loss: Loss, card: Card, part: str) -> Output:
        assert isinstance(loss, RowLoss)
        predicted: Tensor = loss.predict(head_scores(model, card, model(self.x[self.rows[part]])))
        return predicted.double().cpu().numpy()

    def judge(self, part: str, output: Output, validation: Output | None = None) -> Judged:
        truth = self.data.y[self.rows[part]]
        if self.several:
            return Judged(ranking_of_labels(output, truth), {})
        predicted = output.argmax(axis=1)
        each: dict[str, Values] = {"accuracy": (predicted == truth).astype(np.float64)}
        whole: dict[str, float | None] = {"macro_f1": float(f1_score(truth, predicted, average="macro"))}
        if validation is not None and probable(output) and probable(validation):
            chosen = tempered(output, temperature(validation, self.data.y[self.rows["validation"]]))
            each["nll"] = -np.log(np.maximum(chosen[np.arange(len(truth)), truth], 1e-300))
            whole["calibration"] = calibration_error(chosen, truth)
        return Judged(each, whole)

    def call(self, loss: Loss, card: Card) -> str:
        targets = "multi_label(y)" if self.several else "classes(y)"
        return f"loss({head_code(card)}, torchlosses.{targets}{given(loss)})"

    def stand_in(self, loss: Loss, card: Card) -> list[str]:
        kinds = len(self.data.labels)
        y = f"torch.rand({self.batch}, {kinds}) < 0.5" if self.several else f"torch.randint({kinds}, ({self.batch},))"
        return [*encoder_code(self), f"y = {y}", *head_lines(card, kinds, self.width), *ids_code(self, loss)]


def probable(output: Output) -> bool:
    """Whether every row is a distribution."""
    return bool((output >= 0).all() and np.allclose(output.sum(axis=1), 1, atol=1e-3))


def ranking_of_labels(output: Output, truth: Output) -> dict[str, Values]:
    found = ranking(ranked(output, truth), ("map", "recall_at_1"))
    return {"label_map": found["map"], "top_right": found["recall_at_1"]}


def facts(counts: Tensor, size: int) -> dict[str, object]:
    """What losses that declare data may ask of the training split."""
    kinds = len(counts)
    return {
        "class_counts": counts,
        "examples": size,
        "num_examples": size,
        "classes": kinds,
        "num_classes": kinds,
    }


# --- code that stands in for the user's own -------------------------------------------------------------------


def encoder_code(task: Task) -> list[str]:
    shape = ", ".join(str(size) for size in (task.batch, *task.data.shape))
    features = int(np.prod(task.data.shape))
    return [
        f"x = torch.randn({shape})",
        f"encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear({features}, {task.width}))",
    ]


def head_lines(card: Card, kinds: int, width: int) -> list[str]:
    lines = [f"weight = torch.nn.Parameter(torch.randn({kinds}, {width}))"]
    return lines if head_name(card) == "cosine" else [*lines, f"bias = torch.nn.Parameter(torch.zeros({kinds}))"]


def ids_code(task: Task, loss: Loss) -> list[str]:
    return [f"ids = torch.arange({task.batch})  # which training examples these are"] if given(loss) else []


def given(loss: Loss) -> str:
    """What a loss that keeps state for each example is told."""
    if not isinstance(loss, RowLoss):
        return ""
    inner = loss.wrapped()
    return ".given(ids=ids)" if "ids" in inner.fields_needed | inner.fields_optional else ""
