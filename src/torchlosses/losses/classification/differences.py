"""Margin losses of the differences between wrong scores and the right one."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import choice, integer, real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.maps import hardmax
from torchlosses.losses.surrogates import softplus
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets

# above it lam log mean exp(d / lam) is taken from the mean of d: in float32 nothing else would be left
FLAT = 1000.0
NORMALIZATIONS = ("none", "softplus_mean", "l1_mean")


def normalized(scores: Tensor, targets: Block, kind: str) -> Tensor:
    """Scores over their row's mean size: 'l1_mean' s / mean |s|, 'softplus_mean' the same of softplus(s), 'none' s."""
    if kind == "none":
        return scores
    z = softplus(scores) if kind == "softplus_mean" else scores
    size = targets.mean(z.abs())
    return z / torch.where(size > 0, size, 1.0)[:, None]


def differences(scores: Tensor, targets: Block, margin: float) -> Tensor:
    """``margin [j != y] + s_j - s_y`` (b, L)."""
    return scores - targets.target(scores)[:, None] + margin * (~targets.positive).to(scores.dtype)


class LDR(RowLoss):
    r"""Label-distributionally robust loss: worst case over label weights of ``d_j = m [j != y] + s_j - s_y``.

    ``lam log mean_j exp(d_j / lam)``, the maximum of ``<p, d> - lam KL(p | uniform)``; negative values are possible.

    Arguments:
        lam: temperature in [0, inf]: 0 is the maximum (Crammer-Singer), inf the mean of the differences.
        margin: m >= 0.
        normalize: 'none'; 'softplus_mean', softplus of the scores over its row mean, as the authors' code; 'l1_mean',
            scores over their mean absolute value. The gradient flows through it.

    >>> import torch, torchlosses as tl
    >>> tl.LDR(lam=1.0, margin=0.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(-0.5662)
    """

    card: ClassVar[Card] = Card(
        title="Label Distributionally Robust Losses for Multi-class Classification: Consistency, Robustness and Adaptivity",
        year=2023,
        identifier="arXiv:2112.14869",
        family="classification",
        formula=r"\lambda\log\tfrac1C\sum_j e^{(m[j\ne y]+s_j-s_y)/\lambda}",
        purpose="One temperature between a max-margin loss and a loss robust to wrong labels.",
        tasks=("classification",),
        aliases=("LDRLoss", "LDR-KL loss"),
        equals=(
            "CrossEntropy - log C at lam=1, margin=0",
            "CrammerSinger at lam=0",
            "mean of the differences at lam=inf",
        ),
        note="The authors' code has lam 1, margin 2, normalize='softplus_mean'. At lam=0 equal maxima share the gradient.",
    )
    accepts = ("index",)
    summary = ("target", "rest")

    lam: float = real(1.0, "temperature of the worst case", low=0, search=(0.1, 10.0, "log"))
    margin: float = real(2.0, "margin on wrong columns", low=0, search=(0.1, 10.0, "log"))
    normalize: str = choice("none", "what scores are divided by first", options=NORMALIZATIONS)

    @property
    def _by_summary(self) -> bool:
        return self.normalize == "none" and (0 < self.lam <= FLAT or self.lam == math.inf)

    def prescale(self) -> float | Tensor | None:
        return 1 / self.lam if self._by_summary and self.lam < math.inf else None

    def streams(self, targets: Targets) -> tuple[str, ...]:
        if not self._by_summary:
            return ()
        return self.summary if self.lam < math.inf else ("target", "total")

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        columns = row.columns.clamp(min=1)
        if self.lam == math.inf:
            return self.margin * (columns - 1) / columns + row.total / columns - row.target
        # the target's own difference is 0; scores came in divided by lam
        return self.lam * (softplus(self.margin / self.lam + row.rest - row.target) - columns.log())

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        if self._by_summary:
            return self.from_summary(Summary(scores, targets), targets)
        gap = differences(normalized(scores, targets, self.normalize), targets, self.margin)
        if self.lam == 0:
            return largest(gap, targets)
        if self.lam == math.inf:
            return targets.mean(gap)
        if self.lam > FLAT:
            mean = targets.mean(gap)
            return mean + self.lam * targets.mean(((gap - mean[:, None]) / self.lam).expm1()).log1p()
        return self.lam * (targets.logsumexp(gap / self.lam) - targets.count().clamp(min=1).log())

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """softmax of the scores over lam (equal shares on the largest at lam=0; of the scores themselves at lam=inf)."""
        if self.lam == 0:
            return hardmax(as_scores(scores).tensor())
        flat = FLAT < self.lam < math.inf and self.normalize == "none"
        return super().predict(as_scores(scores) / self.lam if flat else scores)


def largest(x: Tensor, targets: Block) -> Tensor:
    """The largest existing entry of each row (b,); equal ones share the gradient, as in the limit of a softmax."""
    share = hardmax(x.detach() if targets.all_valid else x.detach().masked_fill(~targets.valid, -torch.inf))
    return (share * x).sum(-1)


class CrammerSinger(LDR):
    r"""Crammer-Singer loss ``max_j (margin [j != y] + s_j) - s_y``: the multiclass hinge; margin 0 is the perceptron's.

    Arguments:
        margin: >= 0.

    >>> import torch, torchlosses as tl
    >>> tl.CrammerSinger()(torch.tensor([[0.5, 0.0, -1.0]]), torch.tensor([0]))
    tensor(0.5000)
    """

    card: ClassVar[Card] = Card(
        title="On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines",
        year=2001,
        identifier="JMLR 2:265-292",
        family="classification",
        formula=r"\max_j(m[j\ne y]+s_j)-s_y",
        purpose="Max-margin classification: only the most violating class counts.",
        tasks=("classification",),
        aliases=("CrammerSingerLoss", "multiclass hinge loss", "multiclass_hinge_loss"),
        equals=("LDR at lam=0", "FenchelYoung at 'none' for margin=0", "sklearn.metrics.hinge_loss at margin=1"),
        note="Equal maxima share the gradient.",
    )

    lam: float = real(0.0, "temperature of the maximum", low=0)
    margin: float = real(1.0, "margin on wrong columns", low=0, search=(0.1, 10.0, "log"))


class WestonWatkins(RowLoss):
    r"""Weston-Watkins loss ``sum_{j != y} max(0, margin + s_j - s_y)^power``: every violating class counts.

    Arguments:
        margin: >= 0.
        power: 1 or 2.
        columns: 'sum' over the wrong columns, or 'mean', the sum divided by C (as torch.nn.MultiMarginLoss).

    >>> import torch, torchlosses as tl
    >>> tl.WestonWatkins()(torch.tensor([[0.5, 0.0, -0.3]]), torch.tensor([0]))
    tensor(0.7000)
    """

    card: ClassVar[Card] = Card(
        title="Support Vector Machines for Multi-Class Pattern Recognition",
        year=1999,
        identifier="ESANN 1999, pp. 219-224",
        family="classification",
        formula=r"\sum_{j\ne y}\max(0,m+s_j-s_y)^p",
        purpose="Max-margin classification with a gradient from every violating class.",
        tasks=("classification",),
        aliases=("WestonWatkinsLoss", "MultiMarginLoss", "multi_margin_loss", "multi-class margin loss", "MultiMargin"),
        equals=("torch.nn.MultiMarginLoss(p=power) at columns='mean'",),
        note="The gradient at an exact kink is 0.",
    )
    accepts = ("index",)

    margin: float = real(1.0, "margin on wrong columns", low=0, search=(0.1, 10.0, "log"))
    power: int = integer(1, "exponent of the violations", low=1, search=(1, 2))
    columns: str = choice("sum", "how the wrong columns become one number", options=("sum", "mean"))

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        short = differences(scores, targets, self.margin).relu()
        total = targets.sum(short if self.power == 1 else short**self.power, targets.negative)
        return total if self.columns == "sum" else total / targets.count().clamp(min=1)


class MultiLabelMargin(RowLoss):
    r"""Multi-label margin loss ``(1/C) sum_{i right, j wrong} max(0, margin - s_i + s_j)`` in O(C log C).

    Arguments:
        margin: >= 0.

    Rows without a right or without a wrong column are worth 0.

    >>> import torch, torchlosses as tl
    >>> tl.MultiLabelMargin()(torch.tensor([[0.5, 0.0, -0.5, 0.2]]), torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    tensor(0.6000)
    """

    card: ClassVar[Card] = Card(
        title="A Kernel Method for Multi-Labelled Classification",
        year=2001,
        identifier="NIPS 2001",
        family="classification",
        formula=r"\tfrac1C\sum_{i\in P}\sum_{j\in N}\max(0,m-s_i+s_j)",
        purpose="Rank every right label above every wrong one by a margin.",
        tasks=("classification",),
        aliases=("MultiLabelMarginLoss", "multilabel_margin_loss"),
        cost="O(BL log L)",
        note="The gradient at an exact kink is 0. Targets are multi-hot, not torch's padded index lists.",
    )
    accepts = ("positive",)
    plain = "multi_label"

    margin: float = real(1.0, "margin between right and wrong columns", low=0, search=(0.1, 10.0, "log"))

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        right, wrong = targets.positive, targets.negative
        # a pair's hinge is linear where it is active, so the number of active pairs of each column is all that matters
        with torch.no_grad():
            level = torch.where(right, scores - self.margin, scores)
            below = _below(torch.where(right, level, torch.inf), level)
            above = wrong.sum(-1, keepdim=True) - _below(torch.where(wrong, level, torch.inf), level, ties=True)
            pairs = torch.where(right, above, torch.where(wrong, below, 0)).to(scores.dtype)
        value = targets.sum(pairs * (self.margin - scores), right) + targets.sum(pairs * scores, wrong)
        return value / targets.count().clamp(min=1)


def _below(values: Tensor, than: Tensor, *, ties: bool = False) -> Tensor:
    """How many of a row's values lie below each entry (b, L), equal ones counted with ``ties``."""
    return torch.searchsorted(values.sort(-1).values, than.contiguous(), right=ties)
