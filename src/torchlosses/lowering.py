"""From a recipe's raw operands to what the engine multiplies: casts, norms and cheap factors, by ordinary autograd.

Everything here costs O((B + L) D); the (B, L) part is left to the engine. A lowered piece is one product of a left and a
right operand, then an elementwise tail.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchlosses.distances import pairwise
from torchlosses.lazy import lazy
from torchlosses.unit import unit

if TYPE_CHECKING:
    from torchlosses.scores import Piece, Scores

HALVES = (torch.float16, torch.bfloat16)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a rule computes in: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass
class Lowered:
    """One piece, ready to evaluate on any rows.

    ``left`` (B, D) and ``right`` (L, D) or (B, K, D); with ``right`` None, ``left`` (B, L) is the scores themselves.
    ``tail`` lists elementwise operations with their tensors; a tensor of more than one row is per row.
    """

    left: Tensor
    right: Tensor | None
    private: bool
    columns: int
    dtype: torch.dtype
    tail: list[tuple[str, float | Tensor]] = field(default_factory=list)
    own_rows: Tensor | None = None
    own_columns: Tensor | None = None

    @lazy
    def own_place(self) -> Tensor | None:
        """Column of each row's own cell, -1 where it has none (B,); None where a row may have several."""
        assert self.own_rows is not None and self.own_columns is not None
        if not self.columns:
            return torch.full_like(self.own_rows, -1)
        tags, order = self.own_columns.sort()
        if bool((tags[1:] == tags[:-1]).any()):
            return None
        at = torch.searchsorted(tags, self.own_rows.contiguous()).clamp(max=self.columns - 1)
        return torch.where(tags[at] == self.own_rows, order[at], -1)

    @property
    def hides(self) -> bool:
        """Whether the tail masks cells."""
        return any(op == "hide" for op, _ in self.tail)


@dataclass
class Plan:
    """A recipe, lowered: pieces side by side, all in one working dtype."""

    pieces: list[Lowered]
    rows: int
    columns: int
    dtype: torch.dtype
    device: torch.device

    @property
    def masked(self) -> bool:
        """Whether some cells may not exist: own cells of a self-comparison, or plain scores (which may hold -inf)."""
        return any(p.own_rows is not None or p.right is None or p.hides for p in self.pieces)

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """All scores by ordinary autograd, masked cells 0, and which cells exist (None: all)."""
        raws, valids = [], []
        for piece in self.pieces:
            raw, valid = finish(piece, product(piece), piece.tail, piece.own_rows, self.dtype)
            raws.append(raw)
            valids.append(valid)
        return join(raws, valids)


def can_branch(tensor: Tensor) -> bool:
    """Whether code may branch on a tensor's values: not while compiling, not under vmap, not by waiting for a device."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def again() -> bool:
    """Whether a backward pass is running: what is evaluated then is evaluated again, by a checkpoint."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def product(piece: Lowered) -> Tensor:
    """The part of a piece that is a matrix product, whole."""
    if piece.right is None:
        return piece.left
    if piece.private:
        return torch.einsum("bd,bkd->bk", piece.left, piece.right)
    return piece.left @ piece.right.T


def join(raws: list[Tensor], valids: list[Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Pieces side by side with their masks."""
    if len(raws) == 1:
        return raws[0], valids[0]
    valid = None
    if any(v is not None for v in valids):
        valid = torch.cat(
            [torch.ones_like(r, dtype=torch.bool) if v is None else v for r, v in zip(raws, valids, strict=True)],
            dim=1,
        )
    return torch.cat(raws, dim=1), valid


def finish(
    piece: Lowered,
    raw: Tensor,
    tail: list[tuple[str, float | Tensor]],
    own_rows: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:
    """Applies the tail to a block of raw products; masked cells become 0. Returns scores and which cells exist."""
    scores = raw.to(dtype)
    valid: Tensor | None = None
    if piece.right is None:
        valid = scores.detach() != -torch.inf
        if can_branch(scores) and bool(valid.all()):
            valid = None
        else:
            scores = scores.masked_fill(~valid, 0.0)
    for op, factor in tail:
        value = factor.to(dtype) if isinstance(factor, Tensor) else factor
        if op == "mul":
            scores = scores * value
        elif op == "add":
            scores = scores + value
        elif op == "hide":
            assert isinstance(factor, Tensor)
            seen = (~factor).expand_as(scores)
            valid = seen if valid is None else valid & seen
            scores = scores.masked_fill(factor, 0.0)
        else:
            scores = TAILS[op](scores, value)
    if own_rows is not None and piece.own_columns is not None:
        different = own_rows[:, None] != piece.own_columns[None, :]
        valid = different if valid is None else valid & different
        scores = scores.masked_fill(~valid, 0.0)
    return scores, valid


def _clear(scores: Tensor, noise: float | Tensor) -> Tensor:
    """A squared distance; rounding noise counts as 0, with gradient 0."""
    return torch.where(scores.detach() <= noise, 0.0, scores)


def _minus_log(scores: Tensor, tiny: float | Tensor) -> Tensor:
    """-log of a distance whose negative comes in."""
    near = -scores.detach() <= tiny
    return -torch.where(near, tiny, -scores).log()


def _softcap(scores: Tensor, cap: float | Tensor) -> Tensor:
    return cap * torch.tanh(scores / cap)


def _minus_distance(scores: Tensor, noise: float | Tensor) -> Tensor:
    """-sqrt of a squared distance; squares that are rounding noise count as 0, with gradient 0."""
    near = scores.detach() <= noise
    return torch.where(near, 0.0, -torch.sqrt(torch.where(near, 1.0, scores)))


def _minus_acosh1p(scores: Tensor, noise: float | Tensor) -> Tensor:
    """-acosh(1 + x) as -log1p(x + sqrt(x (x + 2)))."""
    near = scores.detach() <= noise
    x = torch.where(near, 1.0, scores)
    return torch.where(near, 0.0, -torch.log1p(x + torch.sqrt(x * (x + 2))))


TAILS = {
    "clear": _clear,
    "minus_log": _minus_log,
    "softcap": _softcap,
    "minus_distance": _minus_distance,
    "minus_acosh1p": _minus_acosh1p,
}


def lower(scores: Scores) -> Plan:
    """Casts as autocast or promotion says, normalizes, folds cheap factors into the operands."""
    device = scores.device
    dtype = scores.dtype
    autocast = torch.is_autocast_enabled(device.type) and dtype != torch.float64
    compute = torch.get_autocast_dtype(device.type) if autocast else dtype
    work = working_dtype(dtype)
    with torch.autocast(device.type, enabled=False):
        pieces = [_lower_piece(piece, compute, work) for piece in scores.pieces]
    return Plan(pieces, scores.rows, scores.columns_count, work, device)


def _rounded(x: Tensor, compute: torch.dtype, work: torch.dtype) -> Tensor:
    """An operand as the product sees it: rounded to a half type where one rules, then (on the CPU) widened.

    The CPU multiplies halves slowly and rounds the result; the widened product equals a half product with a float32
    output. Gradients stay float32 until this cast's own backward, after the incoming gradient has been multiplied in.
    """
    if compute not in HALVES:
        return x.to(work)
    x = x.to(compute)
    return x.to(work) if x.device.type == "cpu" else x


def _lower_piece(piece: Piece, compute: torch.dtype, work: torch.dtype) -> Lowered:
    own = {"own_rows": piece.own_rows, "own_columns": piece.own_columns}
    tail = _hidden(piece.steps)
    if piece.right is None:
        return Lowered(piece.left.to(work), None, False, piece.columns, work, tail, **own)
    same = piece.left is piece.right
    left, right = piece.left, piece.right
    if piece.form == "elementwise":  # no product serves: the distances are made here, whole
        assert piece.metric is not None
        apart = pairwise(left.to(work), right.to(work), piece.metric)
        return Lowered(-apart, None, False, piece.columns, work, tail, **own)
    if piece.form == "cosine":
        scale, tail = _leading(tail) if compute not in HALVES else (1.0, tail)
        same = same and scale == 1
        left = unit(left.to(work), scale)
        right = left if same else unit(right.to(work))
    left_rounded = _rounded(left, compute, work)
    right_rounded = left_rounded if same else _rounded(right, compute, work)
    if piece.form in ("dot", "cosine"):
        left_rounded, right_rounded, tail = _fold(left_rounded, right_rounded, tail, piece.private)
        return Lowered(left_rounded, right_rounded, piece.private, piece.columns, work, tail, **own)
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y, from the operands as the product sees them
    x, y = left_rounded.to(work), right_rounded.to(work)
    xx = (x * x).sum(-1, keepdim=True)
    yy = (y * y).sum(-1) if piece.private else (y * y).sum(-1)[None, :]
    # where |x - y| is rounding noise, |y| is about |x|: the row's own size tells
    noise = 8 * torch.finfo(work).eps * xx.detach()
    squared: list[tuple[str, float | Tensor]] = [("mul", -2.0), ("add", xx), ("add", yy)]
    if piece.form == "euclidean" and piece.metric is not None and piece.metric.eps:
        tail = [*squared, ("clear", noise), ("add", piece.metric.eps), ("minus_distance", 0.0), *tail]
    elif piece.form == "euclidean":
        tail = [*squared, ("minus_distance", noise), *tail]
    elif piece.form == "poincare":
        inside_x, inside_y = 1 / (1 - xx), 1 / (1 - yy)
        noise = 2 * noise * inside_x.detach().square()
        tail = [*squared, ("mul", 2 * inside_x), ("mul", inside_y), ("minus_acosh1p", noise), *tail]
    else:
        raise ValueError(f"form: unknown kind of scores {piece.form!r}")
    return Lowered(left_rounded, right_rounded, piece.private, piece.columns, work, tail, **own)


def _hidden(steps: Iterable[tuple[str, float | Tensor]]) -> list[tuple[str, float | Tensor]]:
    """The tail with every added -inf (a bias that masks columns or rows) as a cell that does not exist."""
    tail: list[tuple[str, float | Tensor]] = []
    masks: list[tuple[str, float | Tensor]] = []
    for op, factor in steps:
        if op == "add" and isinstance(factor, Tensor) and factor.dtype.is_floating_point:
            hidden = factor.detach() == -torch.inf
            if not can_branch(factor) or bool(hidden.any()):
                factor = factor.masked_fill(hidden, 0.0)
                masks.append(("hide", hidden))
        tail.append((op, factor))
    return tail + masks


def _leading(tail: list[tuple[str, float | Tensor]]) -> tuple[float, list[tuple[str, float | Tensor]]]:
    """The product of the numbers that stand first, and the rest of the tail."""
    scale = 1.0
    while tail and tail[0][0] == "mul" and not isinstance(tail[0][1], Tensor):
        scale, tail = scale * tail[0][1], tail[1:]
    return scale, tail


def _fold(
    left: Tensor, right: Tensor, tail: list[tuple[str, float | Tensor]], private: bool
) -> tuple[Tensor, Tensor, list[tuple[str, float | Tensor]]]:
    """Moves factors that stand first into the operands: B D or L D multiplications instead of B L."""
    if left.dtype in HALVES:
        return left, right, tail
    while tail and tail[0][0] == "mul":
        factor = tail[0][1]
        if isinstance(factor, Tensor):
            factor = factor.to(left.dtype)
            if factor.dim() == 2 and factor.shape[0] == 1 and factor.shape[1] != 1:
                if private:
                    break
                right = right * factor.reshape(-1, 1)
                tail = tail[1:]
                continue
        left = left * factor
        tail = tail[1:]
    return left, right, tail
