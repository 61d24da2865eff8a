"""Maps from scores to (often sparse) distributions: sparsemax, entmax, normmax, and the capped simplex.

Each solves a small concave problem per row: a threshold is found without gradient, in closed form along the sorted scores
where there is one and else by Newton steps inside a shrinking bracket. The derivative is the exact one at the solution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchlosses.lowering import can_branch, working_dtype

ITERATIONS = 48
FEW = 128  # candidates that a support is first sought among
# below this distance from 1 the derivative in alpha is that of the softmax limit: the difference quotient has cancelled
NEAR_SHANNON = 1e-4
Excess = Callable[[Tensor], tuple[Tensor, Tensor]]


def entmax(scores: Tensor, alpha: float | Tensor = 1.5, dim: int = -1) -> Tensor:
    r"""The distribution that maximizes ``<p, s>`` plus its Tsallis entropy of order alpha: softmax (1) to sparsemax (2).

    :math:`p_j = [(\alpha-1) s_j - \tau]_+^{1/(\alpha-1)}` with the threshold that makes the sum 1.

    Arguments:
        scores: (..., L); cells of -inf get 0.
        alpha: >= 1; a tensor that broadcasts against the scores with size 1 along ``dim`` gets a gradient too.
        dim: the dimension of the alternatives.

    Source: Peters, Niculae, Martins, "Sparse Sequence-to-Sequence Models", 2019, arXiv:1905.05702; the derivative in
    alpha: Correia, Niculae, Martins, "Adaptively Sparse Transformers", 2019, arXiv:1909.00015.

    >>> import torch, torchlosses as tl
    >>> tl.entmax(torch.tensor([1.0, 0.0, -2.0]), alpha=1.5)
    tensor([0.8307, 0.1693, 0.0000])
    """
    if isinstance(alpha, Tensor):
        order = alpha.to(working_dtype(scores.dtype))
        if not order.dim():
            order = order.expand([1] * scores.dim())
        if order.dim() != scores.dim() or order.shape[dim] != 1:
            raise ValueError(f"alpha: expected a number or a tensor of size 1 along dim {dim}, got {tuple(alpha.shape)}")
        if can_branch(alpha) and bool((alpha < 1).any()):
            raise ValueError(f"alpha: expected numbers in [1, inf), got {float(alpha.min())!r}")
        return _along(dim, scores, lambda s: _Entmax.apply(s, order.movedim(dim, -1), None))  # type: ignore[no-untyped-call]
    if not alpha >= 1:
        raise ValueError(f"alpha: expected a number in [1, inf), got {alpha!r}")
    if alpha == 1:
        return safe_softmax(scores, dim)
    return _along(dim, scores, lambda s: _Entmax.apply(s, s.new_tensor(alpha), float(alpha)))  # type: ignore[no-untyped-call]


def sparsemax(scores: Tensor, dim: int = -1) -> Tensor:
    """Euclidean projection on the probability simplex: :func:`entmax` at alpha 2.

    Source: Martins, Astudillo, "From Softmax to Sparsemax", 2016, arXiv:1602.02068.

    >>> import torch, torchlosses as tl
    >>> tl.sparsemax(torch.tensor([0.5, 0.0, -1.0]))
    tensor([0.7500, 0.2500, 0.0000])
    """
    return entmax(scores, 2.0, dim)


def normmax(scores: Tensor, alpha: float = 2.0, dim: int = -1) -> Tensor:
    r"""The distribution that maximizes ``<p, s> - |p|_alpha``: sparse, and often uniform on its support.

    :math:`p_j \propto [s_j - \tau]_+^{1/(\alpha-1)}` with :math:`\sum_j [s_j - \tau]_+^{\alpha/(\alpha-1)} = 1`.

    Arguments:
        scores: (..., L); cells of -inf get 0.
        alpha: order of the norm, > 1.
        dim: the dimension of the alternatives.

    Source: Blondel, Martins, Niculae, "Learning with Fenchel-Young Losses", 2020, arXiv:1901.02324 (norm entropies).

    >>> import torch, torchlosses as tl
    >>> tl.normmax(torch.tensor([0.5, 0.0, -1.0]))
    tensor([0.6890, 0.3110, 0.0000])
    """
    if not alpha > 1:
        raise ValueError(f"alpha: expected a number in (1, inf), got {alpha!r}")
    return _along(dim, scores, lambda s: _Normmax.apply(s, float(alpha)))  # type: ignore[no-untyped-call]


def capped_simplex(scores: Tensor, budget: float, dim: int = -1) -> Tensor:
    r"""Euclidean projection on ``{0 <= p <= 1, sum p = budget}``: a soft choice of ``budget`` alternatives.

    :math:`p_j = \min(\max(s_j - \tau, 0), 1)`.

    Arguments:
        scores: (..., L); cells of -inf get 0, and a row with no more than ``budget`` others gets 1 in all of those.
        budget: in (0, L].
        dim: the dimension of the alternatives.

    Source: Blondel, Martins, Niculae, "Learning with Fenchel-Young Losses", 2020, arXiv:1901.02324 (budget polytope).

    >>> import torch, torchlosses as tl
    >>> tl.capped_simplex(torch.tensor([3.0, 0.5, 0.0, -1.0]), budget=2)
    tensor([1.0000, 0.7500, 0.2500, 0.0000])
    """
    if not 0 < budget <= scores.shape[dim]:
        raise ValueError(f"budget: expected a number in (0, {scores.shape[dim]}], got {budget!r}")
    return _along(dim, scores, lambda s: _CappedSimplex.apply(s, float(budget)))  # type: ignore[no-untyped-call]


def hardmax(scores: Tensor) -> Tensor:
    """Equal shares of 1 on the largest entries of the last dimension: the limit of every map at small temperature."""
    with torch.no_grad():
        if not scores.shape[-1]:
            return scores.clone()
        best = (scores == scores.amax(-1, keepdim=True)) & (scores != -torch.inf)
        return best.to(scores.dtype) / best.sum(-1, keepdim=True).clamp(min=1)


def safe_softmax(scores: Tensor, dim: int = -1) -> Tensor:
    """softmax with zeros, not NaN, in rows of -inf only."""
    some = (scores.detach() != -torch.inf).any(dim, keepdim=True)
    return torch.where(some, scores, 0.0).softmax(dim) * some.to(scores.dtype)


def _along(dim: int, scores: Tensor, function: Callable[[Tensor], Any]) -> Tensor:
    """A map of the last dimension along another one, in at least float32."""
    if not scores.dtype.is_floating_point:
        raise TypeError(f"scores: expected a floating-point tensor, got {scores.dtype}")
    if not scores.shape[dim]:
        return scores.clone()
    mapped: Tensor = function(scores.movedim(dim, -1).to(working_dtype(scores.dtype)))
    return mapped.movedim(-1, dim).to(scores.dtype)


def _shifted(scores: Tensor) -> Tensor:
    """Scores minus the row's largest, so that thresholds are numbers of order 1; rows of -inf stay."""
    top = scores.amax(-1, keepdim=True)
    return scores - torch.where(top == -torch.inf, 0.0, top)


def _on_largest(scores: Tensor, least: int, solve: Callable[[Tensor], Tensor]) -> Tensor:
    """A map solved on the largest scores of each row only, where those hold all of its support; else on all."""
    columns, some = scores.shape[-1], max(FEW, 2 * least)
    while 2 * some < columns and can_branch(scores):
        top = scores.topk(some, dim=-1)
        p = solve(top.values)
        if bool((p[..., -1] == 0).all()):
            return torch.zeros_like(scores).scatter_(-1, top.indices, p)
        some *= 8
    return solve(scores)


def _root(excess: Excess, low: Tensor, high: Tensor, terms: int) -> Tensor:
    """Where a decreasing function is 0, between low and high (..., 1); ``excess`` gives its value and its slope.

    A Newton step that leaves the bracket, and every fourth step, is replaced by the bracket's middle. ``terms`` is the
    number of addends of the function, whose rounding is all that remains at the end.
    """
    t = low.clone()
    tolerance = max(4.0, terms**0.5) * torch.finfo(t.dtype).eps
    for i in range(ITERATIONS):
        value, slope = excess(t)
        done = (value.abs() <= tolerance) | (high - low <= tolerance * high.abs())
        if i and can_branch(t) and bool(done.all()):
            break
        low, high = torch.where(value > 0, t, low), torch.where(value < 0, t, high)
        step = t - value / torch.where(slope == 0, -1.0, slope)
        inside = (step > low) & (step < high) & (i % 4 != 3)
        t = torch.where(done, t, torch.where(inside, step, (low + high) / 2))
    return t


def _divided(p: Tensor) -> Tensor:
    total = p.sum(-1, keepdim=True)
    return p / torch.where(total == 0, 1.0, total)


def positive_power(base: Tensor, exponent: float | Tensor) -> Tensor:
    """base ** exponent for base >= 0, and 0 with gradient 0 at base 0 whatever the exponent."""
    some = base > 0
    return torch.where(some, torch.where(some, base, 1.0) ** exponent, 0.0)


def _solve_entmax(z: Tensor, e: Tensor) -> Tensor:
    """p = exp(log1p(e (z - t)) / e) with e = alpha - 1: the form that tends to softmax as e tends to 0."""

    def powers(t: Tensor) -> tuple[Tensor, Tensor]:
        base = e * (z - t)
        inside = base > -1
        log = torch.where(inside, base, 0.0).log1p()
        return torch.where(inside, (log / e).exp(), 0.0), torch.where(inside, log, 0.0)

    def excess(t: Tensor) -> tuple[Tensor, Tensor]:
        p, log = powers(t)
        return p.sum(-1, keepdim=True) - 1, -(p * (-log).exp()).sum(-1, keepdim=True)

    low = torch.zeros_like(z[..., :1])  # the largest p is at most 1 ...
    high = low - (-e * math.log(z.shape[-1])).expm1() / e  # ... and at least 1 / L
    return _divided(powers(_root(excess, low, high, z.shape[-1]))[0])


def _solve_sorted(z: Tensor, alpha: float) -> Tensor:
    """Entmax at alpha 1.5 or 2 exactly: the threshold that each number of largest scores would have, then the right one."""
    x = (z * (alpha - 1)).clamp(min=-2.0)  # the support lies within 1 of the largest, 0
    ordered = x.sort(-1, descending=True).values
    size = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    total = ordered.cumsum(-1)
    tau = (total - 1) / size
    if alpha == 1.5:
        mean = total / size
        tau = mean - (1 / size - (ordered.square().cumsum(-1) / size - mean.square())).clamp(min=0).sqrt()
    count = (tau < ordered).sum(-1, keepdim=True).clamp(min=1)
    p = (x - tau.gather(-1, count - 1)).relu()
    return _divided(p if alpha == 2 else p.square()) * (z != -torch.inf).any(-1, keepdim=True)


class _Entmax(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, alpha: Tensor, exact: float | None) -> Tensor:
        z = _shifted(scores)
        if exact in (1.5, 2.0):
            return _on_largest(z, 1, lambda z: _solve_sorted(z, exact))
        e = (alpha - 1).clamp(min=1e-6)
        return _on_largest(z, 1, lambda z: _solve_entmax(z, e))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scores, alpha, p = ctx.saved_tensors
        (g,) = grads
        v = positive_power(p, 2 - alpha)
        total = v.sum(-1, keepdim=True)
        total = torch.where(total == 0, 1.0, total)
        by_score = v * (g - (v * g).sum(-1, keepdim=True) / total)
        if not ctx.needs_input_grad[1]:
            return by_score, None, None
        # v is not 0 only where the score is finite, and shifting the scores changes nothing
        z = torch.where(p > 0, _shifted(scores), 0.0)
        log_p = torch.where(p > 0, p, 1.0).log()
        e = torch.where(alpha - 1 > NEAR_SHANNON, alpha - 1, 1.0)
        u = (v * z - p * log_p) / e
        limit = -p * log_p.square() / 2
        moved = torch.where(alpha - 1 > NEAR_SHANNON, u - v * u.sum(-1, keepdim=True) / total, 0.0)
        at_one = limit - p * limit.sum(-1, keepdim=True)
        by_alpha = (g * torch.where(alpha - 1 > NEAR_SHANNON, moved, at_one)).sum(-1, keepdim=True)
        return by_score, by_alpha.sum_to_size(alpha.shape), None


def _solve_normmax(z: Tensor, alpha: float) -> Tensor:
    rate = 1 / (alpha - 1)

    def excess(t: Tensor) -> tuple[Tensor, Tensor]:
        gap = (z - t).relu()
        p = positive_power(gap, rate)
        return (p * gap).sum(-1, keepdim=True) - 1, -(rate + 1) * p.sum(-1, keepdim=True)

    low = torch.full_like(z[..., :1], -1.0)
    high = torch.full_like(low, -(float(z.shape[-1]) ** (-(alpha - 1) / alpha)))
    return _divided(positive_power((z - _root(excess, low, high, z.shape[-1])).relu(), rate))


class _Normmax(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, alpha: float) -> Tensor:
        return _on_largest(_shifted(scores), 1, lambda z: _solve_normmax(z, alpha))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.alpha = inputs[1]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (p,) = ctx.saved_tensors
        (g,) = grads
        norm = positive_power(positive_power(p, ctx.alpha).sum(-1, keepdim=True), 1 / ctx.alpha)
        norm = torch.where(norm == 0, 1.0, norm)
        weight = positive_power(p / norm, 2 - ctx.alpha) * norm / (ctx.alpha - 1)
        centred = weight * (g - (p * g).sum(-1, keepdim=True))
        return centred - p * centred.sum(-1, keepdim=True), None


def _solve_capped_simplex(z: Tensor, budget: float) -> Tensor:
    def excess(t: Tensor) -> tuple[Tensor, Tensor]:
        gap = z - t
        free = (gap > 0) & (gap < 1)
        return gap.clamp(0, 1).sum(-1, keepdim=True) - budget, -free.to(z.dtype).sum(-1, keepdim=True)

    low = torch.full_like(z[..., :1], -1.0)
    return (z - _root(excess, low, torch.zeros_like(low), z.shape[-1])).clamp(0, 1)


class _CappedSimplex(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, budget: float) -> Tensor:
        place = min(int(-(-budget // 1)), scores.shape[-1])  # the threshold lies within 1 below the score at this rank
        level = scores.topk(place, dim=-1).values[..., -1:]
        short = level == -torch.inf
        p = _on_largest(scores - torch.where(short, 0.0, level), place, lambda z: _solve_capped_simplex(z, budget))
        return torch.where(short, (scores != -torch.inf).to(scores.dtype), p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (p,) = ctx.saved_tensors
        (g,) = grads
        free = ((p > 0) & (p < 1)).to(g.dtype)
        return free * (g - (free * g).sum(-1, keepdim=True) / free.sum(-1, keepdim=True).clamp(min=1)), None
