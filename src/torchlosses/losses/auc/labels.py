"""What AUC objectives share: a row of the rule is a label, its columns the examples; state by example id."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.engine.batch import Batch
from torchlosses.engine.problem import Problem
from torchlosses.hyperparameters import choice, data
from torchlosses.loss import RowLoss
from torchlosses.losses.ids import checked_ids
from torchlosses.reductions import OVER
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets, multi_label


class ByLabel(RowLoss):
    """A rule on the columns of the scores: each label's examples are one row, and the mean is over labels.

    Call with scores (B,) of a binary problem, (B, L) of L labels or a recipe of that shape, and 0/1 targets of the same
    shape, or ``multi_label``, ``graded``, ``same_label``, ``paired``; ``classes`` are one against the rest. Fields (B,)
    belong to the examples, ``weight`` (L,) to the labels; reduction='none' gives (L,). A label without positives or
    without negatives has no pairs and, by default, is left out of the mean.
    """

    accepts: ClassVar[tuple[str, ...]] = ("positive",)
    plain: ClassVar[str] = "multi_label"
    over: str = choice("valid", "what the mean divides by", options=OVER)

    def _scores(self, scores: Scores | Tensor, targets: Targets | Tensor) -> Scores:
        if isinstance(scores, Tensor) and scores.dim() == 1:
            scores = scores[:, None]
        return as_scores(scores).T

    def _targets(self, targets: Targets | Tensor) -> Targets:
        if isinstance(targets, Tensor):
            targets = multi_label(targets[:, None] if targets.dim() == 1 else targets)
        found = super()._targets(targets)
        return found.T.given(**found.fields)

    def _problem(
        self, scores: Scores | Tensor, targets: Targets | Tensor, given: dict[str, Tensor]
    ) -> tuple[Problem, torch.Size, dict[str, Tensor]]:
        if isinstance(targets, Targets) and targets.kind == "classes":
            targets = one_against_rest(targets, as_scores(scores).columns_count)
        return super()._problem(scores, targets, given)

    @staticmethod
    def _field(name: str, tensor: Tensor, recipe: Scores) -> Tensor:
        if name != "weight" and tensor.dim() == 1 and tensor.shape[0] == recipe.columns_count:
            return tensor.expand(recipe.rows, -1)
        return RowLoss._field(name, tensor, recipe)

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The scores themselves: only their order is trained."""
        return scores if isinstance(scores, Tensor) else scores.tensor()


class Remembering(ByLabel):
    """Keeps numbers for every example (and label) in buffers (classes, examples), by ``targets.given(ids=...)``.

    They move in training mode, once per call; evaluation reads them, or without ids their starting values. Of equal ids
    in one batch one is kept.
    """

    examples: int = data("number of training examples, an integer >= 1")
    classes: int = data("number of labels (columns), an integer >= 1", 1)

    def memories(self) -> dict[str, float]:
        """The buffers' names and what they start with."""
        raise NotImplementedError

    def setup(self) -> None:
        for name in ("examples", "classes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {value!r}")
        for name, start in self.memories().items():
            self.register_buffer(name, torch.full((self.classes, self.examples), start))

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        check_labels(recipe.rows, self.classes)

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        ids = fields.get("ids")
        if ids is None:
            if self.training:
                raise TypeError(
                    f"ids: {type(self).__name__} needs it in training mode, one entry per example; "
                    "attach it with targets.given(ids=tensor)"
                )
            size = (batch.rows, batch.columns)
            return {n: torch.full(size, start, device=batch.device) for n, start in self.memories().items()}
        index = checked_ids(ids[0], self.examples)
        return {name: getattr(self, name)[:, index] for name in self.memories()}

    def commit(self, updates: dict[str, Tensor], fields: dict[str, Tensor]) -> None:
        for name in self.memories():
            buffer = getattr(self, name)
            buffer[:, fields["ids"][0].long()] = updates[name].to(buffer.dtype)


def one_against_rest(targets: Targets, columns: int) -> Targets:
    """Classes as labels: an ignored example has no cells, a class's weight is its label's."""
    index, ignore = targets.rows["index"], targets.options["ignore_index"]
    RowLoss._check_index(index, ignore, columns)
    hot = index[:, None] == torch.arange(columns, device=index.device)
    found = multi_label(hot, (index != ignore)[:, None].expand_as(hot)).given(**targets.fields)
    weight = targets.shared.get("class_weight")
    return found if weight is None else found.given(weight=weight)


def check_labels(rows: int, classes: int) -> None:
    if rows != classes:
        raise ValueError(f"scores: expected classes={classes} columns, as the loss was made for, got {rows}")
