"""A share of the classes at every call: what makes a head of a million classes affordable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchlosses.draws import Draws
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome
from torchlosses.engine.problem import Problem
from torchlosses.hyperparameters import choice, real
from torchlosses.loss import RowLoss, Wrapper
from torchlosses.lowering import can_branch
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets


class ClassSampling(Draws, Wrapper):
    r"""Any loss with class targets on the batch's classes and a random share of the others, drawn anew at every call.

    ``floor(rate * C)`` of the C columns take part: all that are somebody's right column, and uniformly drawn others (the
    former alone where they are more). Nothing corrects for the draw; ``rate=1`` is the loss itself. Columns, targets and
    class weights are renamed, so the inner loss sees a smaller matrix; what it knows of each class (class counts, biases
    per class) it cannot keep. Predictions use all classes.

    Arguments:
        loss: a row loss whose targets are classes, such as ``ArcFace()``.
        rate: share of the classes, in (0, 1].
        gradients: of the columns' operand, W in ``cosine(x, W)`` or ``linear(x, W, b)``. 'dense' is as large as W, zero in
            rows that took no part: for a million classes it costs more than the loss. 'sparse' is a sparse tensor of the
            rows that took part, for SGD, SparseAdam or Adagrad; W must then be a leaf. A bias has a dense gradient.
        seed: of the generator, whose state is in ``state_dict``; None takes torch's default seed.

    A set of classes of one's own: ``loss(scores, targets, sampled=index)`` with distinct classes (M,), every right one
    among them. Wrap it last: ``ClassSampling(HardNegatives(ArcFace()))``.

    Source: Partial FC, Killing Two Birds with One Stone (2022, arXiv:2203.15565) and Partial FC: Training 10 Million
    Identities on a Single Machine (2021, arXiv:2010.05222), rate 0.1.

    >>> import torch, torchlosses as tl
    >>> loss = tl.ClassSampling(tl.CrossEntropy(), rate=0.5, seed=0)
    >>> loss(torch.zeros(1, 100), torch.tensor([3]))  # log 50
    tensor(3.9120)
    """

    rate: float = real(0.1, "share of the classes", above=0, high=1, search=(0.05, 0.5, "log"))
    gradients: str = choice("dense", "of the columns' operand", options=("dense", "sparse"))

    def __init__(self, loss: RowLoss, rate: float = 0.1, **hyperparameters: Any) -> None:
        super().__init__(loss, rate=rate, **hyperparameters)

    def draw(self, index: Tensor, counted: Tensor, columns: int) -> Tensor:
        """The classes of this call (M,), ascending: those in ``index`` (of the counted rows) and others."""
        size = max(int(self.rate * columns), 1)
        keys = self.drawn(lambda g: torch.rand(columns + 1, generator=g), index.device)
        keys[torch.where(counted, index, columns)] = 2.0  # above every draw; ignored rows fall off the end
        if index.shape[0] > size:
            size = max(size, int((keys[:-1] == 2.0).sum()))
        return keys[:-1].topk(size).indices.sort().values

    @staticmethod
    def _sampled(given: Tensor, index: Tensor, counted: Tensor, columns: int) -> Tensor:
        """A set of classes that the caller chose, ascending."""
        if given.dim() != 1 or given.dtype.is_floating_point or given.dtype == torch.bool:
            raise TypeError(f"sampled: expected a 1-d tensor of classes, got {given.dtype} {tuple(given.shape)}")
        ordered = given.to(index.device).sort().values
        if can_branch(ordered):
            if ordered.shape[0] and (int(ordered[0]) < 0 or int(ordered[-1]) >= columns):
                raise ValueError(f"sampled: expected classes in [0, {columns}), got {int(ordered[0])} to {int(ordered[-1])}")
            if bool((ordered[1:] == ordered[:-1]).any()):
                raise ValueError("sampled: expected distinct classes, got one twice")
            missing = index[counted & ~torch.isin(index, ordered)]
            if missing.shape[0]:
                raise ValueError(f"sampled: expected every right class among them, got none of {int(missing[0])}")
        return ordered

    def _problem(
        self, scores: Scores | Tensor, targets: Targets | Tensor, given: dict[str, Tensor]
    ) -> tuple[Problem, torch.Size, dict[str, Tensor]]:
        recipe = as_scores(scores)
        wanted = self._targets(targets).given(**given)
        if wanted.kind != "classes":
            raise TypeError(f"targets: ClassSampling expected classes(), got {wanted.kind}()")
        fields = dict(wanted.fields)
        chosen = fields.pop("sampled", None)
        wanted = replace(wanted, fields=fields)
        RowLoss.check(self, recipe, wanted)
        if chosen is not None or self.rate < 1 or self.gradients == "sparse":
            recipe, wanted = self._reduced(recipe, wanted, chosen)
        problem, leading, used = self.loss._problem(recipe, wanted, {})
        return replace(problem, over=self.over), leading, used

    def _reduced(self, recipe: Scores, wanted: Targets, chosen: Tensor | None) -> tuple[Scores, Targets]:
        """Scores and targets over the classes that take part."""
        index, ignore = wanted.rows["index"], wanted.options["ignore_index"]
        counted = index != ignore
        columns = recipe.columns_count
        kept = self.draw(index, counted, columns) if chosen is None else self._sampled(chosen, index, counted, columns)
        place = torch.searchsorted(kept, index.clamp(0, columns - 1)).clamp(max=kept.shape[0] - 1)
        rows = {**wanted.rows, "index": torch.where(counted, place, -100)}
        wanted = replace(
            wanted,
            rows=rows,
            shared={name: t[kept] if name == "class_weight" else t for name, t in wanted.shared.items()},
            fields={n: t[:, kept] if t.dim() == 2 and t.shape[1] == columns else t for n, t in wanted.fields.items()},
            options={**wanted.options, "ignore_index": -100},
            teacher=None if wanted.teacher is None else wanted.teacher.columns(kept),
        )
        return recipe.columns(kept, sparse=self.gradients == "sparse"), wanted

    def _evaluate(self, scores: Tensor, targets: Block, fields: dict[str, Tensor]) -> Outcome:
        raise TypeError("loss: ClassSampling goes around other wrappers, such as ClassSampling(HardNegatives(ArcFace()))")


__all__ = ["ClassSampling"]
