"""Means over all (positive, negative) pairs of a row: exact, without forming the pairs wherever sorting or sums do."""

from __future__ import annotations

import torch
from torch import Tensor

from torchlosses.engine.block import Block
from torchlosses.losses.surrogates import SURROGATES, continued_exp, surrogate
from torchlosses.lowering import can_branch

PHI = (*SURROGATES, "barrier_hinge")
CHUNK = 1 << 22  # pairs formed at once by surrogates that have no shortcut


def phi_of(name: str, difference: Tensor, margin: float, slope: float) -> Tensor:
    """The surrogate of a difference t, large where it is small; barrier hinge max(m-c(m+t), c(t-m), m-t)."""
    if name != "barrier_hinge":
        return surrogate(name, difference, margin)
    inner = torch.maximum(slope * (difference - margin), margin - difference)
    return torch.maximum(margin - slope * (margin + difference), inner)


def mean_over_pairs(name: str, scores: Tensor, targets: Block, margin: float, slope: float) -> tuple[Tensor, Tensor]:
    """Mean of phi(s_p - s_q) over the row's pairs (b,), and whether there is any; O(n log n) but for smooth surrogates."""
    upper, lower = targets.positive, targets.negative
    n_upper, n_lower = targets.count(upper), targets.count(lower)
    pairs = n_upper * n_lower
    some = pairs > 0
    if name == "exponential":
        first, second = targets.logsumexp(-scores, upper), targets.logsumexp(scores, lower)
        exponent = torch.where(some, first, 0.0) + torch.where(some, second, 0.0)
        return continued_exp(exponent - torch.where(some, pairs, 1.0).log()), some
    s = _wide(scores)
    if name == "square":
        first, second = targets.mean(s, upper), targets.mean(s, lower)
        value = targets.mean((s - first[:, None]).square(), upper) + targets.mean((s - second[:, None]).square(), lower)
        return (value + (margin - first + second).square()).to(scores.dtype), some
    if name in ("hinge", "squared_hinge"):
        value = hinge_sum(s, upper, lower, margin, squared=name == "squared_hinge") / pairs.clamp(min=1)
    elif name == "barrier_hinge":  # three lines, that is one line and a hinge at each of its two corners
        value = margin * some.to(s.dtype) - targets.mean(s, upper) + targets.mean(s, lower)
        bends = (slope + 1) * hinge_sum(s, lower, upper, -margin)
        if slope > 1:
            bends = bends + (slope - 1) * hinge_sum(s, upper, lower, -slope * margin / (slope - 1))
        value = value + bends / pairs.clamp(min=1)
    else:
        value = _chunked(name, scores, upper, lower, margin) / pairs.clamp(min=1)
    return value.to(scores.dtype), some


def hinge_sum(s: Tensor, upper: Tensor, lower: Tensor, margin: float, squared: bool = False) -> Tensor:
    """Sum over i in ``upper`` and j in ``lower`` of relu(margin - s_i + s_j), or of its square: (b,), O(n log n).

    ``lower`` is sorted once; the pairs of an i that count are a tail of it, whose size, sum and sum of squares are read
    off running sums.
    """
    order = s.detach().masked_fill(~lower, -torch.inf).sort(-1)
    start = torch.searchsorted(order.values, (s.detach() - margin).contiguous(), right=True)
    s = s - s.detach().mean(-1, keepdim=True)  # only differences count; sums of squares stay small
    sorted_s = torch.where(order.values.isfinite(), s.gather(-1, order.indices), 0.0)
    a = margin - s
    count = (s.shape[1] - start).to(s.dtype)
    if squared:
        value = count * a.square() + 2 * a * _tail(sorted_s, start) + _tail(sorted_s.square(), start)
    else:
        value = count * a + _tail(sorted_s, start)
    return torch.where(upper, value, 0.0).sum(-1)


def _tail(x: Tensor, start: Tensor) -> Tensor:
    """Sums of x (b, n) from the positions ``start`` in 0..n to the end."""
    sums = x.flip(-1).cumsum(-1).flip(-1)
    return torch.cat([sums, sums.new_zeros(sums.shape[0], 1)], -1).gather(-1, start)


def _wide(x: Tensor) -> Tensor:
    """float64 for running sums over a million scores, where the device has it."""
    return x if x.device.type == "mps" else x.double()


def _chunked(name: str, scores: Tensor, upper: Tensor, lower: Tensor, margin: float) -> Tensor:
    """Sum over pairs that are formed, a chunk at a time; more than one chunk is recomputed for its gradient."""
    first, chosen_first = _gathered(scores, upper)
    second, chosen_second = _gathered(scores, lower)

    def part(p: Tensor, chosen: Tensor, q: Tensor) -> Tensor:
        value = surrogate(name, p[:, :, None] - q[:, None, :], margin)
        return torch.where(chosen[:, :, None] & chosen_second[:, None, :], value, 0.0).sum((1, 2))

    size = max(1, CHUNK // max(1, second.numel()))
    if first.shape[1] <= size:
        return part(first, chosen_first, second)
    from torch.utils.checkpoint import checkpoint  # here: older torch loads much with it

    parts = [
        checkpoint(part, p, chosen, second, use_reentrant=False)
        for p, chosen in zip(first.split(size, 1), chosen_first.split(size, 1), strict=True)
    ]
    return torch.stack(parts).sum(0)


def _gathered(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen scores of each row side by side (b, k), k the largest number of them, and which of these are real."""
    k = int(mask.sum(-1).max()) if mask.numel() and can_branch(mask) else mask.shape[1]
    order = mask.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, :k]
    return scores.gather(-1, order), mask.gather(-1, order)
