"""Summary rules of two pools: log-sum-exp over the right columns, which are few, and over the wrong ones, in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchlosses.engine.block import Block, Exists
from torchlosses.engine.outcome import GivenSummary, Outcome, weigh
from torchlosses.engine.problem import Problem, Tensors

if TYPE_CHECKING:
    from torchlosses.engine.blocked import Gradients

CACHE = 1 << 20  # bytes of a block that elementwise passes work on at a time, to stay in a core's cache


def strips(s: Tensor) -> tuple[Tensor, ...]:
    """Rows of a block in strips that fit a cache; views."""
    if s.device.type != "cpu":
        return (s,)
    parts: tuple[Tensor, ...] = s.split(max(4, CACHE // max(1, s.shape[1] * s.element_size())))
    return parts


def exponentials(s: Tensor, slope: float = 1.0) -> tuple[Tensor, Tensor]:
    """Overwrites a block by exp(slope (s - top)); top (b, 1), 0 in rows of -inf only, and the rows' sums (b,)."""
    tops, sums = [], []
    for strip in strips(s):
        top = strip.amax(1, keepdim=True)
        top = torch.where(top == -torch.inf, 0.0, top)
        strip.sub_(top)
        sums.append((strip if slope == 1.0 else strip.mul_(slope)).exp_().sum(1))
        tops.append(top)
    return torch.cat(tops), torch.cat(sums)


def _log(z: Tensor) -> Tensor:
    return torch.where(z > 0, torch.where(z > 0, z, 1.0).log(), -torch.inf)


def differentiate(
    problem: Problem,
    given: dict[str, Tensor],
    mass: Tensor,
    tensors: Tensors,
    span: tuple[int, int],
    exists: Exists,
    sums: Gradients,
    coefficient: dict[str, Tensor] | None,
    filled: Tensor | None = None,
) -> tuple[Outcome, dict[str, Tensor]]:
    """The rule on a block's numbers and its derivative with respect to each; gradients of other inputs are added up.

    ``filled``: rows that have a cell, where that is known already.
    """
    assert problem.summary_rule is not None
    others = sorted(k for k in sums.needed if not k.startswith("s0."))
    with torch.enable_grad():
        leaves = {name: value.requires_grad_() for name, value in given.items() if name in problem.summary}
        other_leaves = sums.leaves(tensors, others)
        block, fields = problem.block(tensors, mass.shape[0], span[0], exists)
        if filled is not None:
            block.filled = filled
        row = GivenSummary({**given, **leaves}, mass, block)
        outcome = problem.settle(problem.summary_rule(row, block, problem.own_fields(fields)), block, fields)
        total = weigh(outcome, coefficient)
    if not total.requires_grad:
        return outcome, {}
    found = torch.autograd.grad(total, [*leaves.values(), *other_leaves], allow_unused=True)
    sums.add_found(others, found[len(leaves) :], span)
    zero = torch.zeros_like(mass)
    return outcome, {name: zero if g is None else g for name, g in zip(leaves, found, strict=False)}


def _right_cells(problem: Problem, block: Block, span: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column of every right cell of a block; some of them may not exist."""
    found = problem.by_label
    if problem.kind == "multi_index":
        index = problem.rows["indices"][span[0] : span[1]]
        row, place = (index >= 0).nonzero(as_tuple=True)
        return row, index[row, place]
    if found is None:
        row, column = block.positive.nonzero(as_tuple=True)
        return row, column
    order, begin, number = found
    begin, number = begin[span[0] : span[1]], number[span[0] : span[1]]
    row = torch.repeat_interleave(number)
    shift = begin - (number.cumsum(0) - number)  # from a cell's place in this list to its place in that order
    return row, order[shift[row] + torch.arange(row.shape[0], device=row.device)]


def pool_block(
    problem: Problem,
    s: Tensor,
    tensors: Tensors,
    span: tuple[int, int],
    exists: Exists,
    sums: Gradients | None,
    coefficient: dict[str, Tensor] | None,
) -> Outcome:
    """One block: ``s`` (b, L) holds scores, -inf where no cell exists; overwritten by its gradient."""
    assert problem.summary_rule is not None
    near_slope, far_slope = problem.slopes
    height = s.shape[0]
    with torch.no_grad():
        block, fields = problem.block(tensors, height, span[0], exists)
        row, column = _right_cells(problem, block, span)
        place, flat = row * s.shape[1] + column, s.view(-1)
        v = flat[place]
        if exists is not None:
            kept = v != -torch.inf
            row, place, v = row[kept], place[kept], v[kept]
        x = v * near_slope
        zero = s.new_zeros(height)
        number = zero.index_add(0, row, torch.ones_like(v))
        top_near = torch.full_like(zero, -torch.inf).scatter_reduce_(0, row, x, "amax")
        e = (x - top_near[row]).exp()
        z_near = zero.index_add(0, row, e)
        near = _log(z_near) + torch.where(z_near > 0, top_near, 0.0)
        flat[place] = -torch.inf
        top, z = exponentials(s, far_slope)
        far = _log(z) + far_slope * top.squeeze(1)
        lse = torch.logaddexp(near, far)
        filled = lse != -torch.inf
        lse = torch.where(filled, lse, 0.0)
        target = zero.index_add(0, row, v) / number.clamp(min=1)
        every = {"near": near, "far": far, "lse": lse, "target": target}
        mass = (number > 0).to(s.dtype)
        block.filled = filled
    if sums is None:
        with torch.no_grad():
            outcome = problem.summary_rule(GivenSummary(every, mass, block), block, problem.own_fields(fields))
            return problem.settle(outcome, block, fields)

    outcome, on = differentiate(problem, every, mass, tensors, span, exists, sums, coefficient, filled)
    if on:
        with torch.no_grad():
            on_near, on_far = on.get("near", zero), on.get("far", zero)
            scale = torch.where(z > 0, far_slope * on_far / torch.where(z > 0, z, 1.0), 0.0)
            sparse = near_slope * e * (on_near / torch.where(z_near > 0, z_near, 1.0))[row]
            if "lse" in on:  # slopes are 1 then; with others the exponentials may overflow
                scale = scale + on["lse"] * (top.squeeze(1) - lse).exp()
                sparse = sparse + on["lse"][row] * (v - lse[row]).exp()
            sparse = sparse + (on.get("target", zero) / number.clamp(min=1))[row]
            for strip, factor in zip(strips(s), strips_of(scale, s), strict=True):
                strip.mul_(factor[:, None])
            flat[place] = sparse
            sums.push(0, problem.plan.pieces[0], s, span)
    return outcome.detached()


def strips_of(x: Tensor, s: Tensor) -> tuple[Tensor, ...]:
    """A per-row vector in the strips of a block."""
    parts: tuple[Tensor, ...] = x.split([strip.shape[0] for strip in strips(s)])
    return parts
