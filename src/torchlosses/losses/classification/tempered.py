"""The bi-tempered logistic loss: a softmax with heavy tails under a bounded logarithm."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.engine.pools import strips
from torchlosses.hyperparameters import real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.target_probability import LOG_ZERO, comp_sum
from torchlosses.lowering import can_branch
from torchlosses.scores import Scores, as_scores

STEPS = 50  # Newton steps at most; a handful is needed


def log_tempered(x: Tensor, temperature: float) -> Tensor:
    """log exp_t(-x) for x >= 0, where exp_t(u) = [1 + (1 - t) u]_+ ^ (1 / (1 - t)); LOG_ZERO off the support of t < 1."""
    rate = 1 - temperature
    if abs(rate) < 1e-9:
        return -x
    if rate < 0:
        return (-rate * x).log1p() / rate
    some = x < 1 / rate
    return torch.where(some, torch.where(some, -rate * x, 0.0).log1p() / rate, LOG_ZERO)


class Normalizer(Function):
    """The shift (b,) that solves ``sum_k exp_t(-(gap_k + shift)) = 1`` for gaps (b, L) >= 0 whose least is 0.

    ``log_t`` of the sum is convex and falling in the shift (linear for t = 1), so that Newton's steps from 0 climb to the
    root without passing it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(gap: Tensor, temperature: float) -> Tensor:
        return torch.cat([_solve(strip, temperature) for strip in strips(gap)])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.temperature = inputs[1]
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        gap, shift = ctx.saved_tensors
        escort = (ctx.temperature * log_tempered(gap + shift[:, None], ctx.temperature)).softmax(-1)
        return -grads[0][:, None] * escort, None


def _solve(gap: Tensor, temperature: float) -> Tensor:
    """The normalizer of some rows, by Newton's steps on ``log_t`` of the sum."""
    rate, eps = 1 - temperature, torch.finfo(gap.dtype).eps
    if abs(rate) < 1e-9:
        return (-gap).logsumexp(-1).clamp(min=0)
    shift = gap.new_zeros(gap.shape[0])
    for _ in range(STEPS):
        top = 1 - rate * shift  # all in units of the largest probability, top^(1 / rate): nothing underflows
        less = gap * (-rate / top)[:, None]
        if rate > 0:
            less.clamp_(min=-1)
        p = (less.log1p() / rate).exp_()  # log1p: near temperature 1 the rest cancels
        ratio = less.add_(1)
        escort = p / ratio if rate < 0 else torch.where(ratio > 0, p / ratio, 0.0)
        p_sum, slope = p.sum(-1), escort.sum(-1)
        log_sum = p_sum.log() + (-rate * shift).log1p() / rate
        step = (rate * log_sum).expm1() / rate * p_sum**temperature / slope
        step = torch.where(p_sum > 0, step, 0.0).clamp(min=0)
        shift = shift + step
        done = step <= 4 * eps * (1 + shift)
        if can_branch(done) and bool(done.all()):
            break
    return shift


def tempered_log_softmax(gap: Tensor, temperature: float, exists: Tensor | None) -> Tensor:
    """log p (b, L) of the tempered softmax; ``gap`` >= 0 is how far a score lies below the row's largest."""
    shown = gap if exists is None else gap.masked_fill(~exists, torch.inf)
    shift: Tensor = Normalizer.apply(shown, temperature)  # type: ignore[no-untyped-call]
    return log_tempered(gap + shift[:, None], temperature)


class BiTempered(RowLoss):
    r"""Bi-tempered logistic loss: bounded below the first temperature, heavy tails above the second.

    ``sum_k q_k (log_t1 q_k - log_t1 p_k) - (q_k^(2 - t1) - p_k^(2 - t1)) / (2 - t1)`` with the tempered softmax p of
    temperature t2 and ``log_t(x) = (x^(1 - t) - 1) / (1 - t)``.

    Arguments:
        t1: in [0, 2); below 1 the loss is bounded, which resists outliers.
        t2: > 0; above 1 tails are heavy, which resists wrong labels near the boundary. Below 1 predictions can be exactly
            0, and t1 must be below 1.
        label_smoothing: share of the mass spread evenly over the wrong columns, in [0, 1).

    >>> import torch, torchlosses as tl
    >>> tl.BiTempered()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1096)
    >>> tl.BiTempered(t2=0.5).predict(torch.tensor([[2.0, 0.0]]))
    tensor([[1., 0.]])
    """

    card: ClassVar[Card] = Card(
        title="Robust Bi-Tempered Logistic Loss Based on Bregman Divergences",
        year=2019,
        identifier="arXiv:1906.03361",
        family="classification",
        formula=r"\sum_k q_k(\log_{t_1}q_k-\log_{t_1}p_k)-\frac{q_k^{2-t_1}-p_k^{2-t_1}}{2-t_1}",
        purpose="Classification with wrong labels and outliers, convexity given up in two measured doses.",
        tasks=("classification",),
        aliases=("BiTemperedLogisticLoss", "bi_tempered_logistic_loss", "bi-tempered"),
        cost="O(BL log L)",
        equals=("CrossEntropy at t1=t2=1",),
        note="Spread over the wrong columns only, label_smoothing=e here is C e/(C - 1) in CrossEntropy.",
    )
    accepts = ("probability",)
    copies = 20.0

    t1: float = real(0.8, "temperature of the logarithm", low=0, below=2, search=(0.5, 1.0))
    t2: float = real(1.2, "temperature of the softmax", above=0, search=(1.0, 2.0))
    label_smoothing: float = real(0.0, "share of the mass on wrong columns", low=0, below=1, search=(0.0, 0.3))

    def setup(self) -> None:
        if self.t2 < 1 <= self.t1:
            raise ValueError(
                f"t1: expected a number < 1 with t2 < 1 (predictions of 0 would be worth infinity), got {self.t1}"
            )

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        top = targets.max(scores.detach(), empty=0.0)
        gap, exists = top[:, None] - scores, None
        if not targets.all_valid:
            exists = targets.valid
            gap = torch.where(exists, gap, 0.0)
        log_p = tempered_log_softmax(gap, self.t2, exists)
        power = 2 - self.t1
        if targets.has_index and not self.label_smoothing:
            others = targets.sum((power * log_p).exp()) - 1
            return comp_sum(targets.target(log_p), power) + others / power
        q = self._smoothed(targets)
        some = q > 0
        log_q = torch.where(some, q, 1.0).log()
        entropy = q * (comp_sum(log_p, power) - comp_sum(log_q, power))
        mass = (power * log_p).exp() - torch.where(some, (power * log_q).exp(), 0.0)
        return targets.sum(entropy + mass / power)

    def _smoothed(self, targets: Block) -> Tensor:
        q, smoothing = targets.probability, self.label_smoothing
        if not smoothing:
            return q
        others = (targets.count() - 1).clamp(min=1)[:, None]
        mass = q.sum(-1, keepdim=True)
        spread = (mass - q) / others
        return torch.where(targets.valid, (1 - smoothing) * q + smoothing * spread, 0.0)

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The tempered softmax of the scores (..., L)."""
        shown = as_scores(scores).tensor()
        flat = shown.reshape(-1, shown.shape[-1])
        exists = flat > -torch.inf
        gap = torch.where(exists, flat.amax(-1, keepdim=True) - flat, 0.0)
        log_p = tempered_log_softmax(gap, self.t2, exists)
        return torch.where(exists, log_p.exp(), 0.0).reshape(shown.shape)
