"""Whole rows of similarities: multi-similarity and circle."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import real
from torchlosses.loss import RowLoss
from torchlosses.targets import Targets


def _softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), exact on both sides; 0 with gradient 0 at -inf."""
    some = x.detach() != -torch.inf
    return torch.where(some, -logsigmoid(-torch.where(some, x, 0.0)), 0.0)


class MultiSimilarity(RowLoss):
    r"""Soft thresholds on both sides of a row: ``log(1 + sum_p e^{-a (s_p - b)}) / a + log(1 + sum_n e^{c (s_n - b)}) / c``.

    Arguments:
        alpha: steepness on positives, > 0.
        beta: steepness on negatives, > 0.
        base: the threshold.
        epsilon: None for all pairs; else only negatives above the row's smallest positive minus epsilon, and positives
            below its largest negative plus epsilon.

    >>> import torch, torchlosses as tl
    >>> tl.MultiSimilarity()(torch.tensor([[0.9, 0.4, 0.1]]), tl.classes(torch.tensor([0])))
    tensor(0.1857)
    """

    card: ClassVar[Card] = Card(
        title="Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning",
        year=2019,
        identifier="arXiv:1904.06627",
        family="metric",
        formula=r"\tfrac1\alpha\log(1+\sum_p e^{-\alpha(s_p-\lambda)}) + \tfrac1\beta\log(1+\sum_n e^{\beta(s_n-\lambda)})",
        purpose="Weigh pairs by their own similarity and by the rest of their row.",
        tasks=("retrieval", "pairs"),
        scores="cosine",
        aliases=("MultiSimilarityLoss", "MS loss"),
        detached="the choice of pairs",
        note="alpha 2, beta 50, base 0.5 as pytorch-metric-learning; the authors' code has beta 40, epsilon 0.1.",
    )
    accepts = ("positive",)
    plain = "multi_label"

    alpha: float = real(2.0, "steepness on positives", above=0, search=(0.5, 10.0, "log"))
    beta: float = real(50.0, "steepness on negatives", above=0, search=(10.0, 100.0, "log"))
    base: float = real(0.5, "the threshold", search=(0.0, 1.0))
    epsilon: float | None = real(None, "margin of the choice of pairs; None keeps all", optional=True)

    summary = ("near", "far")

    def slopes(self) -> tuple[float, float]:
        return -self.alpha, self.beta

    def streams(self, targets: Targets) -> tuple[str, ...]:
        return self.summary if self.epsilon is None else ()

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        return self._both_sides(row.near, row.far)

    def _both_sides(self, near: Tensor, far: Tensor) -> Tensor:
        """From the log-sum-exps of -alpha s over positives and of beta s over negatives."""
        right = _softplus(near + self.alpha * self.base) / self.alpha
        return right + _softplus(far - self.beta * self.base) / self.beta

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        positive, negative = targets.positive, targets.negative
        if self.epsilon is not None:
            shown = scores.detach()
            lowest = targets.min(shown, positive)[:, None]
            highest = targets.max(shown, negative)[:, None]
            positive = positive & (shown - self.epsilon < highest)
            negative = negative & (shown + self.epsilon > lowest)
        near = targets.logsumexp(-self.alpha * scores, positive)
        return self._both_sides(near, targets.logsumexp(self.beta * scores, negative))


class Circle(RowLoss):
    r"""Pairs weighted by how far they are from their optimum: ``log(1 + sum_n e^{x_n} sum_p e^{x_p})``.

    ``x_p = -gamma [1 + m - s_p]+ (s_p - 1 + m)`` and ``x_n = gamma [s_n + m]+ (s_n - m)``; the brackets carry no gradient.
    A row without positives or without negatives is empty.

    Arguments:
        margin: m, in [0, 1]; 0.4 for retrieval, 0.25 for faces.
        gamma: scale, > 0; 80 for retrieval, 256 for faces.

    >>> import torch, torchlosses as tl
    >>> tl.Circle()(torch.tensor([[0.4, 0.5]]), tl.classes(torch.tensor([0])))
    tensor(23.2000)
    """

    card: ClassVar[Card] = Card(
        title="Circle Loss: A Unified Perspective of Pair Similarity Optimization",
        year=2020,
        identifier="arXiv:2002.10857",
        family="metric",
        formula=r"\log\left(1 + \sum_n e^{\gamma[s_n+m]_+(s_n-m)} \sum_p e^{-\gamma[1+m-s_p]_+(s_p-1+m)}\right)",
        purpose="Push every similarity towards its own optimum, the farthest ones hardest.",
        tasks=("retrieval", "pairs", "classification"),
        scores="cosine",
        aliases=("CircleLoss",),
        over="rows with a loss > 0",
        detached="the self-paced weights [.]+",
    )
    accepts = ("positive",)
    plain = "multi_label"
    over = "active"

    margin: float = real(0.4, "relaxation m", low=0, high=1, search=(0.1, 0.5))
    gamma: float = real(80.0, "scale", above=0, search=(16.0, 512.0, "log"))

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        m, shown = self.margin, scores.detach()
        near = targets.logsumexp(-self.gamma * (1 + m - shown).relu() * (scores - (1 - m)), targets.positive)
        far = targets.logsumexp(self.gamma * (shown + m).relu() * (scores - m), targets.negative)
        both = targets.positive.any(-1) & targets.negative.any(-1)
        value = _softplus(torch.where(both, near, 0.0) + torch.where(both, far, 0.0))
        return torch.where(both, value, 0.0), both.to(scores.dtype)
