"""Dice per example, with easy examples played down."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.hyperparameters import choice, flag, real
from torchlosses.loss import RowLoss
from torchlosses.losses.overlap.masks import LOWEST, log_complement


class SelfAdjustingDice(RowLoss):
    r"""Self-adjusting Dice of every example and class: :math:`1-\frac{2q_jY_j+s}{q_j+Y_j+s}`, :math:`q=(1-p)^\alpha p`.

    Arguments:
        alpha: power of the factor that plays down easy examples, >= 0.
        smooth: s >= 0.
        squared: :math:`q^2+Y^2` in the denominator, the form of the released scripts.
        per_row: 'mean' over classes (the paper's), or their 'sum' (the released code's).

    p is the softmax of the scores; the factor is differentiated. The ratio of one set of examples is Dice(focus=...).

    >>> import torch, torchlosses as tl
    >>> tl.SelfAdjustingDice()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.2601)
    """

    card: ClassVar[Card] = Card(
        title="Dice Loss for Data-imbalanced NLP Tasks",
        year=2020,
        identifier="arXiv:1911.02855",
        family="overlap",
        formula=r"\frac1C\sum_j1-\frac{2q_jY_j+s}{q_j+Y_j+s},\ q=(1-p)^\alpha p",
        purpose="Tag tokens when one tag dominates: easy negatives do not add up.",
        tasks=("classification",),
        scores="linear",
        aliases=("DSC loss", "DiceLoss (dice_loss_for_NLP)", "DSC"),
        equals=("set level: Dice(focus=alpha, over='all', activation='sigmoid')",),
        note="(1-p)^alpha is taken in the log domain, where its derivative in the scores is finite",
    )
    accepts = ("probability",)

    alpha: float = real(1.0, "power of 1 - p", low=0, search=(0.01, 2.0, "log"))
    smooth: float = real(1.0, "added to numerator and denominator", low=0, search=(0.01, 2.0, "log"))
    squared: bool = flag(False, "squares in the denominator", search=True)
    per_row: str = choice("mean", "how classes become a row's value", options=("mean", "sum"))

    def rule(self, scores: Tensor, targets: Block) -> Tensor:
        truth = targets.probability
        x = scores if targets.all_valid else torch.where(targets.valid, scores, LOWEST)
        q = x.softmax(-1)
        if self.alpha:
            q = q * (self.alpha * log_complement(x, 1)).exp()
        bottom = q.square() + truth.square() if self.squared else q + truth
        some = bottom + self.smooth > 0
        value = 1 - (2 * q * truth + self.smooth) / torch.where(some, bottom + self.smooth, 1.0)
        return targets.mean(value) if self.per_row == "mean" else targets.sum(value)
