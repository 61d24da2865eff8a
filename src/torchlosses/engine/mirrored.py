"""Rows and columns of one matrix in a single walk: both directions of a summary rule for 4 products instead of 6."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchlosses.engine.blocked import Buffers, Gradients
from torchlosses.engine.evaluate import is_small, keeps_graph
from torchlosses.engine.outcome import GivenSummary
from torchlosses.engine.pools import strips
from torchlosses.engine.problem import Problem, Tensors

FAINT = 1e-30  # column sums below this have lost digits to underflow
SPREAD = 60.0  # log-sum-exps further apart than this need their own exponentials


def both_ways(problem: Problem, mean: bool) -> Tensor | None:
    """Row direction plus column direction of paired scores, each a mean or a sum; None where the general path is needed."""
    plan = problem.plan
    fits = (
        problem.streams
        and problem.kind == "paired"
        and plan.rows == plan.columns
        and set(problem.summary) <= {"lse", "target"}
        and not plan.pieces[0].tail
        and plan.pieces[0].right is not None
        and plan.pieces[0].own_rows is None
        and problem.over == "rows"
        and not problem.fields
        and not problem.parameters
    )
    if not fits or is_small(problem):
        return None
    piece = plan.pieces[0]
    found = column_statistics(problem)
    if found is None:
        return None
    assert piece.right is not None
    value: Tensor = _BothWays.apply(problem, found, mean, piece.left, piece.right)  # type: ignore[no-untyped-call]
    return value


def _blocks(problem: Problem, buffers: Buffers, tensors: Tensors) -> Any:
    for span in problem.spans():
        cut = {"s0.left": tensors["s0.left"][span[0] : span[1]], "s0.right": tensors["s0.right"]}
        yield span, buffers.products("s", cut)[0]


def column_statistics(problem: Problem) -> tuple[Tensor, Tensor, Tensor] | None:
    """Log-sum-exp of every row and every column, and the diagonal; None where columns would lose digits."""
    piece, plan = problem.plan.pieces[0], problem.plan
    assert piece.right is not None
    tensors = {"s0.left": piece.left.detach(), "s0.right": piece.right.detach()}
    spans = list(problem.spans())
    with torch.no_grad():
        buffers = Buffers(plan, max(b - a for a, b in spans))
        rows, diagonal = [], []
        columns = torch.zeros(plan.columns, dtype=plan.dtype, device=plan.device)
        reference = torch.full((), -torch.inf, dtype=plan.dtype, device=plan.device)
        for span, s in _blocks(problem, buffers, tensors):
            diagonal.append(s.diagonal(span[0]).clone())
            for strip in strips(s):
                top = strip.amax(1)
                z = strip.sub_(top[:, None]).exp_().sum(1)
                rows.append(z.log() + top)
                higher = torch.maximum(reference, top.max())
                if higher > reference:
                    columns.mul_((reference - higher).exp())
                    reference = higher
                columns.addmv_(strip.T, (top - reference).exp())
        if bool((columns < FAINT).any()) or not bool(torch.isfinite(columns).all()):
            return None
        return torch.cat(rows), columns.log() + reference, torch.cat(diagonal)


def _slopes(problem: Problem, lse: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values of a direction, and their derivatives with respect to log-sum-exp and target score."""
    assert problem.summary_rule is not None
    block, _ = problem.block({}, lse.shape[0], 0, None)
    with torch.enable_grad():
        leaves = [lse.detach().requires_grad_(), target.detach().requires_grad_()]
        ones = torch.ones_like(lse)
        row = GivenSummary({"lse": leaves[0], "target": leaves[1]}, ones, block)
        outcome = problem.settle(problem.summary_rule(row, block, {}), block, {})
        (value, _), *more = outcome.terms.values()
        assert not more
        found = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    slopes = [torch.zeros_like(lse) if g is None else g for g in found]
    return value.detach(), slopes[0], slopes[1]


class _BothWays(torch.autograd.Function):
    """The value from the statistics; gradients by a second product of every block, in the forward pass."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, found: tuple[Tensor, Tensor, Tensor], mean: bool, *tensors: Tensor) -> Tensor:
        lse_rows, lse_columns, diagonal = found
        value_rows, on_rows, target_rows = _slopes(problem, lse_rows, diagonal)
        value_columns, on_columns, target_columns = _slopes(problem, lse_columns, diagonal)
        share = 1.0 / problem.plan.rows if mean else 1.0
        total = (value_rows.sum() + value_columns.sum()) * share
        needed = {k for k, flag in zip(("s0.left", "s0.right"), ctx.needs_input_grad[3:], strict=True) if flag}
        ctx.save_for_backward(*tensors)
        ctx.sums = None
        if needed:
            held = {"s0.left": tensors[0], "s0.right": tensors[1]}
            sums = Gradients(problem, held, needed)
            _fill(problem, sums, held, found, on_rows * share, on_columns * share, (target_rows + target_columns) * share)
            ctx.sums = sums.sums
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "double differentiation of a blocked symmetric loss is not available; pass scores.tensor() instead"
            )
        held: Tensors = ctx.sums
        saved = ctx.saved_tensors
        if keeps_graph():
            held = {k: g * grads[0] for k, g in held.items()}
        else:
            ctx.sums = None
            held = {k: g.mul_(grads[0]) for k, g in held.items()}
        out = [held.get(k) for k in ("s0.left", "s0.right")]
        return (None, None, None, *(None if g is None else g.to(t.dtype) for g, t in zip(out, saved, strict=True)))


def _fill(
    problem: Problem,
    sums: Gradients,
    tensors: Tensors,
    found: tuple[Tensor, Tensor, Tensor],
    on_rows: Tensor,
    on_columns: Tensor,
    on_target: Tensor,
) -> None:
    lse_rows, lse_columns, _ = found
    piece = problem.plan.pieces[0]
    spans = list(problem.spans())
    buffers = Buffers(problem.plan, max(b - a for a, b in spans))
    close = bool(lse_rows.max() - lse_columns.min() < SPREAD) and bool(lse_columns.max() - lse_rows.min() < SPREAD)
    middle = lse_columns.mean()
    across = on_columns * (middle - lse_columns).exp() if close else on_columns
    for span, s in _blocks(problem, buffers, tensors):
        start = span[0]
        for strip in strips(s):
            place = slice(start, start + strip.shape[0])
            start += strip.shape[0]
            row, factor = lse_rows[place, None], on_rows[place, None]
            if close:  # exp(s - lse_column) = exp(s - lse_row) exp(lse_row - lse_column)
                other = torch.mul((row - middle).exp(), across[None]).add_(factor)
                strip.sub_(row).exp_().mul_(other)
            else:
                other = torch.sub(strip, lse_columns[None]).exp_().mul_(on_columns[None])
                strip.sub_(row).exp_().mul_(factor).add_(other)
        s.diagonal(span[0]).add_(on_target[span[0] : span[1]])
        sums.push(0, piece, s, span)
