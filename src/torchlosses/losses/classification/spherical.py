"""The spherical family: losses of the right score, the sum of all scores and the sum of their squares.

On a linear head those three numbers need no row of scores: see :mod:`torchlosses.engine.spherical`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import integer, real
from torchlosses.loss import RowLoss
from torchlosses.losses.surrogates import softplus
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets


class ZLoss(RowLoss):
    r"""Z-loss: softplus of how far the right score's z-value in its row, ``z = (s_y - mean) / std``, falls short of b.

    ``softplus(a (b - z)) / a`` with the biased standard deviation of all C scores. It does not change when the scores
    are shifted or scaled, defines no probabilities (predict by the largest score), and z is at most sqrt(C - 1).

    Arguments:
        a: sharpness, > 0.
        b: the z-value aimed at; larger for a focus on the first places.

    Rows of equal scores are worth softplus(a b) / a with gradient 0. Not :class:`LogPartitionPenalty`, the "z-loss" of
    large language models.

    >>> import torch, torchlosses as tl
    >>> tl.ZLoss()(torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0]))
    tensor(0.2576)
    """

    card: ClassVar[Card] = Card(
        title="The Z-loss: a shift and scale invariant classification loss belonging to the Spherical Family",
        year=2016,
        identifier="arXiv:1604.08859",
        family="classification",
        formula=r"\tfrac1a\log\left(1+e^{a(b-z_y)}\right),\ z_y=(s_y-\bar s)/\sigma_s",
        purpose="Classification with very many classes at a cost that does not grow with them.",
        tasks=("classification",),
        aliases=("Z loss of the spherical family",),
        cost="O(BL); on a linear head O(L D^2 + B D^2) whatever the batch times the classes",
    )
    accepts = ("index",)
    summary = ("target", "total", "spread")

    a: float = real(1.0, "sharpness", above=0, search=(0.01, 10.0, "log"))
    b: float = real(0.0, "z-value aimed at", search=(0.0, 30.0))

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        columns = row.columns.clamp(min=1)
        mean, variance = row.total / columns, row.spread / columns
        # scores that differ by rounding only are equal
        noise = (4 * torch.finfo(variance.dtype).eps * mean.detach()).square()
        some = variance.detach() > noise
        z = (row.target - mean) / torch.where(some, variance, 1.0).sqrt()
        return softplus(self.a * (self.b - torch.where(some, z, 0.0))) / self.a

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The z-values of the scores (..., L)."""
        s = as_scores(scores).tensor()
        centred = s - s.mean(-1, keepdim=True)
        return centred / centred.square().mean(-1, keepdim=True).sqrt().clamp(min=torch.finfo(s.dtype).tiny)


class SphericalSoftmax(RowLoss):
    r"""Spherical softmax: ``-log p_y`` with ``p_k = (s_k^2 + eps) / sum_j (s_j^2 + eps)``, blind to the sign of a score.

    Arguments:
        eps: added to every square, > 0.

    >>> import torch, torchlosses as tl
    >>> tl.SphericalSoftmax()(torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
    tensor(0.2231)
    """

    card: ClassVar[Card] = Card(
        title="An Exploration of Softmax Alternatives Belonging to the Spherical Loss Family",
        year=2016,
        identifier="arXiv:1511.05042",
        family="classification",
        formula=r"\log\sum_j(s_j^2+\epsilon)-\log(s_y^2+\epsilon)",
        purpose="Classification with very many classes at a cost that does not grow with them.",
        tasks=("classification",),
        aliases=("SphericalSoftmaxLoss", "log spherical softmax"),
        cost="O(BL); on a linear head O(L D^2 + B D^2)",
    )
    accepts = ("probability",)
    summary = ("target", "squares")

    eps: float = real(1e-6, "added to every square", above=0)

    def streams(self, targets: Targets) -> tuple[str, ...]:
        return self.summary if "index" in targets.views else ()

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        whole = row.squares + self.eps * row.columns.clamp(min=1)
        return whole.log() - (row.target.square() + self.eps).log()

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        if targets.has_index:
            return self.from_summary(Summary(scores, targets), targets)
        q, size = targets.probability, scores.square() + self.eps
        return q.sum(-1) * targets.sum(size).clamp(min=self.eps).log() - targets.sum(q * size.log()), q.sum(-1)

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """``(s^2 + eps)`` over its row sum (..., L)."""
        size = as_scores(scores).tensor().square() + self.eps
        return size / size.sum(-1, keepdim=True)


class TaylorSoftmax(RowLoss):
    r"""Taylor softmax: ``-log p_y`` with ``p_k = t(s_k) / sum_j t(s_j)``, t the Taylor polynomial of exp.

    Arguments:
        order: even, >= 2, so that t is positive; 2 belongs to the spherical family.

    >>> import torch, torchlosses as tl
    >>> tl.TaylorSoftmax()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1823)
    """

    card: ClassVar[Card] = Card(
        title="An Exploration of Softmax Alternatives Belonging to the Spherical Loss Family",
        year=2016,
        identifier="arXiv:1511.05042",
        family="classification",
        formula=r"\log\sum_jt(s_j)-\log t(s_y),\ t(s)=\sum_{i\le n}s^i/i!",
        purpose="A softmax with lighter tails; at order 2 a cost that does not grow with the classes.",
        tasks=("classification",),
        aliases=("TaylorSoftmaxLoss", "log Taylor softmax", "TaylorCrossEntropy"),
        cost="O(BL); at order 2 on a linear head O(L D^2 + B D^2)",
    )
    accepts = ("probability",)
    summary = ("target", "total", "squares")

    order: int = integer(2, "degree of the polynomial, even", low=2, search=(2, 4))

    def setup(self) -> None:
        if self.order % 2:
            raise ValueError(f"order: expected an even integer >= 2, got {self.order}")

    def streams(self, targets: Targets) -> tuple[str, ...]:
        return self.summary if self.order == 2 and "index" in targets.views else ()

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        # t(s) = ((1 + s)^2 + 1) / 2, at least 1/2
        whole = row.columns + row.total + row.squares / 2
        return whole.clamp(min=0.5).log() - log_taylor(row.target, 2)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        if self.order == 2 and targets.has_index:
            return self.from_summary(Summary(scores, targets), targets)
        logs, q = log_taylor(scores, self.order), targets.probability
        whole = targets.logsumexp(logs)
        return q.sum(-1) * whole.clamp(min=-1e30) - targets.sum(q * logs), q.sum(-1)

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """t(s) over its row sum (..., L)."""
        return log_taylor(as_scores(scores).tensor(), self.order).softmax(-1)


def log_taylor(s: Tensor, order: int) -> Tensor:
    """log of the Taylor polynomial of exp, elementwise; in powers of 1/s where |s| > 1, which do not overflow."""
    far = s.detach().abs() > 1
    near = torch.where(far, 0.0, s)
    inverse = torch.where(far, s, 1.0).reciprocal()
    low = torch.zeros_like(s)
    for i in range(order, -1, -1):
        low = low * near + 1 / math.factorial(i)
    high = torch.zeros_like(s)
    for i in range(order + 1):
        high = high * inverse + 1 / math.factorial(i)
    return torch.where(far, high.log() - order * inverse.abs().log(), low.log())
