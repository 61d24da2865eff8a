"""Losses of a whole set of labels: every right score against every wrong one through log-sum-exps."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import real
from torchlosses.loss import Loss, RowLoss
from torchlosses.losses.surrogates import softplus
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets


class ZLPR(RowLoss):
    r"""Zero-bounded log-sum-exp pairwise rank loss ``log(1 + sum_wrong e^s) + log(1 + sum_right e^{-s})``.

    Right scores are pushed above 0 and wrong ones below it, so that :meth:`predict` needs no tuned threshold.

    >>> import torch, torchlosses as tl
    >>> tl.ZLPR()(torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    tensor(0.7209)
    """

    card: ClassVar[Card] = Card(
        title="ZLPR: A Novel Loss for Multi-label Classification",
        year=2022,
        identifier="arXiv:2208.02955",
        family="classification",
        formula=r"\log(1+\sum_{j\in N}e^{s_j})+\log(1+\sum_{i\in P}e^{-s_i})",
        purpose="Multi-label classification with few right labels of many, without a threshold to tune.",
        tasks=("classification",),
        aliases=("ZLPRLoss", "multilabel categorical cross-entropy"),
        note="With one right column it is not cross-entropy: that column is pushed above 0, too.",
    )
    accepts = ("positive",)
    plain = "multi_label"
    summary = ("near", "far")

    def slopes(self) -> tuple[float, float]:
        return -1.0, 1.0

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        return softplus(row.far) + softplus(row.near)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        near = targets.logsumexp(-scores, targets.positive)
        return softplus(targets.logsumexp(scores, targets.negative)) + softplus(near)

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """1 where the score is above 0, else 0 (..., L)."""
        s = as_scores(scores).tensor()
        return (s > 0).to(s.dtype)


class _OneWay(RowLoss):
    """The two-way loss along rows: rows without a right column are empty."""

    accepts = ("positive",)
    plain = "multi_label"
    over = "valid"
    positive_temperature: float = real(4.0, above=0)
    negative_temperature: float = real(1.0, above=0)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        tp, tn = self.positive_temperature, self.negative_temperature
        right = tp * targets.logsumexp(-scores / tp, targets.positive)
        wrong = tn * targets.logsumexp(scores / tn, targets.negative)
        return softplus(right + wrong), targets.count(targets.positive)


class TwoWay(Loss):
    r"""Two-way multi-label loss: right scores against wrong ones within every example and within every label.

    A row of the matrix costs ``softplus(tn lse_wrong(s / tn) + tp lse_right(-s / tp))``. The value is the mean over
    rows with a right column plus the same of the transposed matrix, over columns with a right row.

    Arguments:
        positive_temperature: tp > 0; above 1 the hardest right scores weigh more evenly.
        negative_temperature: tn > 0.

    Scores: anything with a transpose, ``linear(features, weight)`` included; targets ``multi_label(hot)`` or plain (B, L).

    >>> import torch, torchlosses as tl
    >>> tl.TwoWay()(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor(0.4402)
    """

    card: ClassVar[Card] = Card(
        title="Two-Way Multi-Label Loss",
        year=2023,
        identifier="CVPR 2023",
        family="classification",
        formula=r"\log\left(1+e^{t_n\mathrm{lse}_N(s/t_n)+t_p\mathrm{lse}_P(-s/t_p)}\right)\text{ by rows and columns}",
        purpose="Multi-label classification that compares labels within an image and images within a label.",
        tasks=("classification",),
        aliases=("TwoWayLoss", "two-way loss"),
        over="rows with a right column, and columns with a right row, each on its own",
    )

    positive_temperature: float = real(4.0, "temperature of right scores", above=0, search=(0.5, 8.0, "log"))
    negative_temperature: float = real(1.0, "temperature of wrong scores", above=0, search=(0.5, 8.0, "log"))

    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__(**hyperparameters)
        self._rows = _OneWay(positive_temperature=self.positive_temperature, negative_temperature=self.negative_temperature)

    def forward(self, scores: Scores | Tensor, targets: Targets | Tensor) -> Tensor:
        """The value on scores (B, L) and multi-label targets."""
        recipe, wanted = as_scores(scores), self._rows._targets(targets)
        value: Tensor = self._rows(recipe, wanted) + self._rows(recipe.T, wanted.T)
        return value

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The sigmoid of every score (..., L)."""
        return torch.sigmoid(as_scores(scores).tensor())
