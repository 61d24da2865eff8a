"""Summary rules: value and gradient of a row from a handful of numbers, the block's gradient by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchlosses.engine.block import Block, Exists
from torchlosses.engine.outcome import GivenSummary, Outcome, finite
from torchlosses.engine.pools import differentiate, exponentials, pool_block, strips, strips_of
from torchlosses.engine.problem import POOLED, Problem, Tensors
from torchlosses.lowering import Lowered

if TYPE_CHECKING:
    from torchlosses.engine.blocked import Gradients


def _both(exists: Exists, seen: Tensor) -> Tensor:
    first = exists() if callable(exists) else exists
    return seen if first is None else first & seen


def _hide_own(piece: Lowered, s: Tensor, span: tuple[int, int], exists: Exists) -> Exists:
    """Sets the block's own cells to -inf; returns which cells exist, as a mask that is made only if somebody asks."""
    assert piece.own_rows is not None and piece.own_columns is not None
    own, columns = piece.own_rows[span[0] : span[1], None], piece.own_columns[None, :]
    if piece.own_place is None:
        different = own != columns
        s.masked_fill_(~different, -torch.inf)
        return _both(exists, different)
    place = piece.own_place[span[0] : span[1]]
    row = (place >= 0).nonzero().squeeze(1)
    s[row, place[row]] = -torch.inf
    return lambda: _both(exists, own != columns)


def _each(problem: Problem, s: Tensor, lse: Tensor, top: Tensor, differentiate: bool) -> Tensor:
    """Sums over the row of the loss's function of log p; ``s`` holds scores and is overwritten by the derivatives."""
    assert problem.each is not None
    found = []
    # log p by way of the largest score, so that far from 0 nothing is lost
    for strip, high, norm in zip(strips(s), strips_of(top, s), strips_of(lse[:, None] - top, s), strict=True):
        strip.sub_(high).sub_(norm)
        with torch.enable_grad():
            log_p = strip.detach().requires_grad_(differentiate)
            value = problem.each(log_p).sum(1)
            if differentiate:
                strip.copy_(torch.autograd.grad(value.sum(), log_p)[0])
        found.append(value.detach())
    return torch.cat(found)


@dataclass
class Streamed:
    """The numbers of a block, and what its gradient is made from. The block then holds exponentials relative to ``top``."""

    given: dict[str, Tensor]
    mass: Tensor
    top: Tensor
    z: Tensor
    empty: Tensor  # rows without a cell
    index: Tensor | None  # (b, 1), of targets with one right column
    right: Tensor  # their right column's score (b,)
    weight: Tensor | None  # (b, L), of the others
    slopes: Tensor  # derivative of 'squares' or 'each' by each score


def stream_block(
    problem: Problem,
    s: Tensor,
    tensors: Tensors,
    span: tuple[int, int],
    sums: Gradients | None,
    coefficient: dict[str, Tensor] | None,
) -> Outcome:
    """One block: ``s`` (b, L) holds raw products and is overwritten by exponentials, then by the gradient."""
    piece = problem.plan.pieces[0]
    with torch.no_grad():
        exists = _finish(piece, s, tensors, span)
        if problem.kind in POOLED and not piece.tail:
            return pool_block(problem, s, tensors, span, exists, sums, coefficient)
        block, fields = problem.block(tensors, s.shape[0], span[0], exists)
        found = _numbers(problem, s, block, sums is not None)
    assert problem.summary_rule is not None
    if sums is None:
        with torch.no_grad():
            row = GivenSummary(found.given, found.mass, block)
            return problem.settle(problem.summary_rule(row, block, problem.own_fields(fields)), block, fields)
    outcome, slope = differentiate(problem, found.given, found.mass, tensors, span, exists, sums, coefficient)
    if slope:
        with torch.no_grad():
            _gradient(s, found, slope, block)
            for k in range(len(piece.tail)):
                key = f"s0.tail{k}"
                if key in sums.needed:
                    shape = tensors[key].shape
                    axes = [a for a in (0, 1) if len(shape) < 2 or shape[a] == 1]
                    sums.add(key, s.sum(axes, keepdim=len(shape) == 2).reshape(shape) if axes else s, span)
            if {"s0.left", "s0.right"} & sums.needed:
                sums.push(0, piece, s, span)
    return outcome.detached()


def _finish(piece: Lowered, s: Tensor, tensors: Tensors, span: tuple[int, int]) -> Exists:
    """Raw products to scores, in place, -inf where no cell exists; returns which do."""
    exists: Exists = None
    if piece.right is None and bool((s == -torch.inf).any()):
        exists = s != -torch.inf
    for k, (op, factor) in enumerate(piece.tail):
        value = tensors.get(f"s0.tail{k}", factor)
        if op == "add":
            s += value
        else:
            assert isinstance(value, Tensor)
            s.masked_fill_(value, -torch.inf)
            exists = _both(exists, (~value).expand_as(s))
    return exists if piece.own_rows is None else _hide_own(piece, s, span, exists)


def _numbers(problem: Problem, s: Tensor, block: Block, differentiable: bool) -> Streamed:
    """What the rule depends on, from a block of scores, which is overwritten by exponentials."""
    asked = set(problem.summary)
    given: dict[str, Tensor] = {}
    weight: Tensor | None = None
    index = block.index[:, None] if block.has_index else None
    if "total" in asked:
        given["total"] = s.sum(1)
    slopes = s.clone() if asked & {"squares", "each"} else s
    if "squares" in asked:
        given["squares"] = (slopes * s).sum(1)
        slopes *= 2
    if index is not None:
        right = s.gather(1, index).squeeze(1)
        given["target"] = finite(right)
        s.scatter_(1, index, -torch.inf)
        mass = block.counted.to(s.dtype)
    else:
        weight = block.probability
        right = given["target"] = (weight * s.masked_fill(weight == 0, 0.0)).sum(1)
        mass = weight.sum(1)
    top, z = exponentials(s)
    rest = z.log() + top.squeeze(1)
    lse = rest if index is None else torch.logaddexp(rest, right)
    if index is not None and "rest" in asked:
        given["rest"] = rest
    empty = lse == -torch.inf
    given["lse"] = torch.where(empty, 0.0, lse)
    if "each" in asked:
        given["each"] = _each(problem, slopes, given["lse"], top, differentiable)
    return Streamed(given, mass, top, z, empty, index, right, weight, slopes)


def _gradient(s: Tensor, found: Streamed, slope: dict[str, Tensor], block: Block) -> None:
    """The block's exponentials to its gradient, in place; ``slope`` is the derivative by each number."""
    zero = torch.zeros_like(found.z)
    on_lse, lse = slope.get("lse", zero), found.given["lse"].detach()
    if "each" in slope:  # every log p falls with lse
        on_lse = on_lse - slope["each"] * found.slopes.sum(1)
    scale = on_lse * (found.top.squeeze(1) - lse).exp()
    if "rest" in slope:
        scale = scale + torch.where(found.z > 0, slope["rest"] / torch.where(found.z > 0, found.z, 1.0), 0.0)
    s.mul_(torch.where(found.empty, 0.0, scale)[:, None])
    if "total" in slope:
        s += slope["total"][:, None]
    on_own = slope.get("squares", slope.get("each"))
    if on_own is not None:
        s.addcmul_(found.slopes, on_own[:, None])
    on_right = slope.get("target", zero)
    if found.index is not None:
        at_right = on_right + on_lse * (found.right - lse).exp() + slope.get("total", zero)
        if on_own is not None:
            at_right = at_right + on_own * found.slopes.gather(1, found.index).squeeze(1)
        s.scatter_(1, found.index, torch.where(block.counted, at_right, 0.0)[:, None])
    elif found.weight is not None:
        s.addcmul_(found.weight, on_right[:, None])
