"""One sigmoid per column: binary and multi-label classification."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import choice, data
from torchlosses.loss import RowLoss
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets, classes


class BinaryCrossEntropy(RowLoss):
    r"""Binary cross-entropy of the sigmoid of every score: multi-label classification.

    Arguments:
        columns: 'mean' or 'sum' over the existing columns of a row. With 'sum' and ``over='terms'`` the mean is over
            all existing cells of the batch.
        pos_weight: factor of the positive part, a number or one per column (L,); often negatives over positives.
        class_weight: factor of a whole column, (L,).

    Targets are ``multi_label(hot)``, ``graded``/``soft`` values in [0, 1], or anything with right columns. Plain
    integers (B,) are classes, plain (B, L) tensors multi-label when 0/1 and soft otherwise.

    >>> import torch, torchlosses as tl
    >>> tl.BinaryCrossEntropy()(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.4100)
    """

    card: ClassVar[Card] = Card(
        title="Binary cross-entropy with logits; as pre-training objective: CatLIP",
        year=2024,
        identifier="arXiv:2404.15653",
        family="classification",
        formula=r"\sum_j w_j\left[\pi_j y_j\log(1+e^{-s_j}) + (1-y_j)\log(1+e^{s_j})\right]",
        purpose="Each column is its own yes or no: multi-label classification, pointwise ranking.",
        tasks=("classification",),
        aliases=("BCEWithLogitsLoss", "BCE", "MultiLabelSoftMarginLoss", "sigmoid cross-entropy", "BiXSE"),
    )
    accepts = ("grade", "probability")
    plain = "multi_label"

    columns: str = choice("mean", "how the columns of a row become one number", options=("mean", "sum"))
    pos_weight: Tensor | float | None = data("factor of the positive part, a number or (L,)", default=None)
    class_weight: Tensor | None = data("factor of each column, (L,)", default=None)

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        for name in ("pos_weight", "class_weight"):
            weight = getattr(self, name)
            if isinstance(weight, Tensor) and weight.numel() not in (1, recipe.columns_count):
                raise ValueError(f"{name}: expected a number or shape ({recipe.columns_count},), got {tuple(weight.shape)}")

    def _targets(self, targets: Targets | Tensor) -> Targets:
        if isinstance(targets, Tensor) and targets.dim() == 1 and not targets.dtype.is_floating_point:
            targets = classes(targets)
        return super()._targets(targets)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        y = targets.probability if targets.kind == "soft" else targets.grade
        positive, negative = functional.softplus(-scores), functional.softplus(scores)
        if self.pos_weight is not None:
            positive = positive * torch.as_tensor(self.pos_weight, dtype=scores.dtype, device=scores.device)
        value = y * positive + (1 - y) * negative
        if self.class_weight is not None:
            value = value * torch.as_tensor(self.class_weight, dtype=scores.dtype, device=scores.device)
        return (targets.sum(value), targets.count()) if self.columns == "sum" else targets.mean(value)

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The sigmoid of every score (..., L)."""
        return as_scores(scores).tensor().sigmoid()
