r"""Spherical rules on a linear head: sums over all columns without the scores.

With :math:`s_j=\langle w_j,h\rangle`, mean row :math:`\bar w` and :math:`G=\sum_j(w_j-\bar w)(w_j-\bar w)^\top`,

.. math:: \sum_j s_j=L\langle\bar w,h\rangle,\ \sum_j(s_j-\bar s)^2=h^\top Gh,\ \sum_j s_j^2=h^\top Gh+(\sum_j s_j)^2/L.

The products cost L D^2 (twice that with the weight's gradient) and B D^2 in place of B L D three times over; a bias per
column is one more feature. Everything is centred, so nothing cancels but what rounding in G leaves in directions of h
along which the columns hardly differ: an error of the size of eps |G| |h|^2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchlosses.engine.outcome import GivenSummary, Outcome
from torchlosses.engine.problem import WITH_INDEX, Problem

NUMBERS = frozenset({"target", "total", "squares", "spread"})
STRIP = 4096  # columns centred at a time


def serves(problem: Problem) -> bool:
    """Whether this evaluation is exact for the problem and takes fewer operations than the matrix of scores."""
    asked = set(problem.summary)
    if problem.summary_rule is None or not asked <= NUMBERS or not asked & {"squares", "spread"}:
        return False
    plan = problem.plan
    if problem.teacher is not None or len(plan.pieces) != 1 or plan.masked or problem.kind not in WITH_INDEX:
        return False
    piece = plan.pieces[0]
    if piece.right is None or piece.private or not all(_per_column(op, f, plan.columns) for op, f in piece.tail):
        return False
    width = piece.left.shape[1] + len(piece.tail)
    grad = torch.is_grad_enabled()
    by_left, by_right = grad and piece.left.requires_grad, grad and piece.right.requires_grad
    return 0 < width <= plan.columns and width * (1 + by_right) < plan.rows * (1 + by_left + by_right)


def _per_column(op: str, factor: float | Tensor, columns: int) -> bool:
    return op == "add" and (not isinstance(factor, Tensor) or factor.numel() == 1 or factor.shape == (1, columns))


def rows(problem: Problem) -> Outcome:
    """Settled values and counts of every row, by ordinary autograd."""
    plan, piece = problem.plan, problem.plan.pieces[0]
    assert piece.right is not None and problem.summary_rule is not None
    h, w = piece.left.to(plan.dtype), piece.right
    shifts = [torch.as_tensor(f, dtype=plan.dtype, device=plan.device).reshape(-1) for _, f in piece.tail]
    if shifts:
        bias = sum(shifts[1:], shifts[0]).expand(plan.columns)
        h, w = torch.cat([h, torch.ones_like(h[:, :1])], 1), torch.cat([w.to(plan.dtype), bias[:, None]], 1)
    block, fields = problem.block(problem.inputs(), plan.rows, 0, None)
    mean, gram, right = Moments.apply(w, block.index, plan.dtype)  # type: ignore[no-untyped-call]
    total, spread = plan.columns * (h @ mean), ((h @ gram) * h).sum(1).clamp(min=0)
    given = {"target": (right * h).sum(1), "total": total, "spread": spread, "squares": spread + total**2 / plan.columns}
    numbers = GivenSummary(given, block.counted.to(plan.dtype), block)
    return problem.settle(problem.summary_rule(numbers, block, problem.own_fields(fields)), block, fields)


class Moments(Function):
    """Of the columns' features (L, D): their mean (D,), their centred Gram matrix (D, D), and those of some (B, D)."""

    @staticmethod
    def forward(w: Tensor, index: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        mean = w.mean(0, dtype=dtype)
        gram = torch.zeros((w.shape[1], w.shape[1]), dtype=dtype, device=w.device)
        for strip in w.split(STRIP):
            centred = strip.to(dtype) - mean
            gram.addmm_(centred.T, centred)
        return mean, gram, w[index].to(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:2], output[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        w, index, mean = ctx.saved_tensors
        by_mean, by_gram, by_right = grads
        both = by_gram + by_gram.T
        # one product, one buffer: (w - mean) both + by_mean / L, then the few right columns
        gradient = torch.addmm(by_mean / w.shape[0] - mean @ both, w.to(mean.dtype), both)
        return gradient.index_add_(0, index, by_right).to(w.dtype), None, None
