"""Both directions of a matrix of scores: rows against columns, and columns against rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchlosses.engine.mirrored import both_ways
from torchlosses.hyperparameters import choice
from torchlosses.loss import Loss, RowLoss, Wrapper
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets


class Symmetric(Loss):
    r"""The mean (or sum) of a row loss on the scores and on their transpose: ``loss(S, T)`` and ``loss(S.T, T.T)``.

    Arguments:
        loss: any row loss.
        combine: 'mean' or 'sum' of the two directions.

    Losses that matter through log-sum-exp and target score only (InfoNCE, CrossEntropy) on large paired scores walk
    the matrix once for both directions. Targets must have a transpose: ``paired()``, ``same_label(y, k)``,
    ``multi_label(hot)`` or ``graded(r)``. Fields of ``paired()`` serve both directions (those with one entry per cell
    transposed), other targets' fields the first one.

    >>> import torch, torchlosses as tl
    >>> tl.Symmetric(tl.InfoNCE(temperature=1.0))(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), tl.paired())
    tensor(0.3133)
    """

    combine: str = choice("mean", "how the two directions become one number", options=("mean", "sum"))

    def __init__(self, loss: RowLoss, **hyperparameters: Any) -> None:
        if not isinstance(loss, RowLoss):
            raise TypeError(f"loss: expected a row loss, got {type(loss).__name__}")
        super().__init__(**hyperparameters)
        self.loss = loss

    def forward(self, scores: Scores | Tensor, targets: Targets | Tensor, **fields: Tensor) -> Tensor:
        """The two directions' values, combined; (B,) for square scores with ``reduction='none'``."""
        recipe = as_scores(scores)
        wanted = self.loss._targets(targets).given(**fields)
        if self.loss.reduction == "none" and recipe.rows != recipe.columns_count:
            raise ValueError(f"reduction: 'none' expected square scores, got {recipe.rows} x {recipe.columns_count}")
        total = self._in_one_walk(recipe, wanted)
        if total is None:
            total = self.loss(recipe, wanted) + self.loss(recipe.T, wanted.T)
        return total / 2 if self.combine == "mean" else total

    def _in_one_walk(self, recipe: Scores, targets: Targets) -> Tensor | None:
        """Sum of both directions where one walk over the matrix serves both."""
        if targets.kind != "paired" or targets.fields or self.loss.reduction not in ("mean", "sum"):
            return None
        if type(self.loss).prepare is not RowLoss.prepare or isinstance(self.loss, Wrapper):
            return None  # each direction prepares once
        problem, _, _ = self.loss._problem(recipe, targets, {})
        with torch.autocast(recipe.device.type, enabled=False):
            return both_ways(problem, mean=self.loss.reduction == "mean")

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The inner loss's prediction for the rows."""
        return self.loss.predict(scores)
