"""Distances of rows to columns that are no matrix product: tile by tile, never (B, L, D) at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TILE = 1 << 18  # entries (rows x columns x features) that exist at once
PRODUCTS = ("euclidean", "mahalanobis", "cosine")


@dataclass(frozen=True)
class Metric:
    """A distance by name, the exponent of Minkowski's, and the small number that keeps it away from 0."""

    name: str = "euclidean"
    p: float = 1.5
    eps: float = 0.0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances along the last dimension of two tensors that broadcast."""
        return ELEMENTWISE[self.name](x, y, self)


def pairwise(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    """Distances (B, L) of rows (B, D) to columns (L, D), or to the rows' own candidates (B, L, D)."""
    columns = y.shape[-2]
    if x.shape[0] * columns * x.shape[1] <= TILE:
        return metric(x[:, None], y if y.dim() == 3 else y[None])
    if metric.name == "manhattan" and y.dim() == 2:  # torch's own kernel is several times faster here
        return torch.cdist(x, y, p=1.0) + metric.eps
    found: Tensor = _Tiled.apply(x, y, metric)  # type: ignore[no-untyped-call]
    return found


def _manhattan(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    return (x - y).abs().sum(-1) + metric.eps


def _chebyshev(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    return (x - y).abs().max(-1).values + metric.eps


def _minkowski(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    each = (x - y).abs() + metric.eps
    # relative to the largest, which cancels: large powers overflow otherwise
    top = each.detach().amax(-1).clamp(min=1.0 if metric.eps else torch.finfo(each.dtype).tiny)
    total = ((each / top[..., None]) ** metric.p).sum(-1)
    if metric.eps:
        total = total + metric.eps * top**-metric.p
    some = total.detach() > 0
    return torch.where(some, torch.where(some, total, 1.0) ** (1 / metric.p), 0.0) * top + metric.eps


def _canberra(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    size = (x.abs() + y.abs()).clamp(min=1e-30)  # both 0: their share is 0
    return ((x - y).abs() / size).sum(-1) + metric.eps


def _bray_curtis(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    return _ratio((x - y).abs().sum(-1), x.abs().sum(-1) + y.abs().sum(-1) + metric.eps, metric.eps)


def _bray_curtis_signed(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    size = (x.sum(-1) + y.sum(-1)).abs() + metric.eps
    return _ratio((x - y).abs().sum(-1), size.clamp(min=10 * metric.eps), metric.eps)


def _ratio(apart: Tensor, size: Tensor, eps: float) -> Tensor:
    return apart / size.clamp(min=1e-30) + eps


ELEMENTWISE: dict[str, Callable[[Tensor, Tensor, Metric], Tensor]] = {
    "manhattan": _manhattan,
    "minkowski": _minkowski,
    "chebyshev": _chebyshev,
    "canberra": _canberra,
    "bray_curtis": _bray_curtis,
    "bray_curtis_signed": _bray_curtis_signed,
}
METRICS = (*PRODUCTS, *ELEMENTWISE)


class _Tiled(torch.autograd.Function):
    """The distances tile by tile; the backward pass computes every tile again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, metric: Metric) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.metric = metric
        out = x.new_empty(x.shape[0], y.shape[-2])
        for rows, columns, place in _tiles(x, y):
            out[rows, columns] = metric(x[rows, None], y[place])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"double differentiation of many {ctx.metric.name} distances is not available (more than {TILE} entries)"
            )
        (gradient,) = grads
        x, y = (t.detach() for t in ctx.saved_tensors)
        into_x, into_y = torch.zeros_like(x), torch.zeros_like(y)
        for rows, columns, place in _tiles(x, y):
            with torch.enable_grad():
                left, right = x[rows].requires_grad_(), y[place].requires_grad_()
                block = ctx.metric(left[:, None], right)
            found = torch.autograd.grad(block, (left, right), gradient[rows, columns])
            into_x[rows] += found[0]
            into_y[place] += found[1]
        return into_x, into_y, None


def _tiles(x: Tensor, y: Tensor) -> Iterator[tuple[slice, slice, Any]]:
    """Rows and columns of each tile, and where its columns stand in ``y``."""
    width = min(y.shape[-2], max(1, TILE // max(1, x.shape[1])))
    height = max(1, TILE // max(1, width * x.shape[1]))
    for top in range(0, x.shape[0], height):
        rows = slice(top, top + height)
        for start in range(0, y.shape[-2], width):
            columns = slice(start, start + width)
            yield rows, columns, (rows, columns) if y.dim() == 3 else columns
