"""Soft confusion counts, and the metrics that are functions of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Confusion:
    """Soft numbers of true and false positives and negatives, tensors of one shape."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    @property
    def positives(self) -> Tensor:
        return self.tp + self.fn

    @property
    def negatives(self) -> Tensor:
        return self.fp + self.tn

    def __add__(self, amount: float) -> Confusion:
        return Confusion(self.tp + amount, self.fp + amount, self.fn + amount, self.tn + amount)


def soft_confusion(
    probability: Tensor,
    truth: Tensor,
    axes: Sequence[int],
    counts: str = "product",
    norm: int = 1,
    counted: Tensor | None = None,
) -> Confusion:
    r"""Counts over the axes, which are kept with size 1.

    Arguments:
        probability, truth: in [0, 1], one shape; 0 where ``counted`` is False.
        counts: TP as 'product' :math:`\sum pt`, or 'l1' :math:`(|p|_n^n+|t|_n^n-|p-t|_n^n)/2`, equal for hard truth and
            n = 1, and largest at p = t for soft truth. FP = |p| - TP, FN = |t| - TP.
        norm: n of :math:`|x|_n^n=\sum x^n`, >= 1.
        counted: True where a cell counts at all; decides TN alone.
    """

    def size(x: Tensor) -> Tensor:
        return (x if norm == 1 else x.pow(norm)).sum(tuple(axes), keepdim=True)

    predicted, known = size(probability), size(truth)
    if counts == "l1":
        tp = (predicted + known - size((probability - truth).abs())) / 2
    else:
        tp = (probability * truth).sum(tuple(axes), keepdim=True)
    cells = torch.ones_like(truth) if counted is None else counted.to(truth.dtype).expand_as(truth)
    fp, fn = predicted - tp, known - tp
    return Confusion(tp, fp, fn, cells.sum(tuple(axes), keepdim=True) - tp - fp - fn)


def divide(top: Tensor, bottom: Tensor, empty: float = 0.0) -> Tensor:
    """top / bottom, and ``empty`` without gradient where bottom is 0."""
    some = bottom > 0
    return torch.where(some, top / torch.where(some, bottom, 1.0), empty)


def power(x: Tensor, exponent: float) -> Tensor:
    """x^exponent for x >= 0, continued linearly below eps^2, where the slope of a root would be infinite."""
    if exponent == 1:
        return x
    start = torch.finfo(x.dtype).eps ** 2
    low = x.detach() < start
    return torch.where(low, x * start ** (exponent - 1), torch.where(low, 1.0, x).pow(exponent))


def tversky(c: Confusion, alpha: float, beta: float, smooth: float = 0.0, smooth_denominator: float | None = None) -> Tensor:
    """(2 TP + s) / (2 TP + 2 alpha FP + 2 beta FN + s'); the denominator is at least 1e-7."""
    lower = smooth if smooth_denominator is None else smooth_denominator
    return (2 * c.tp + smooth) / (2 * c.tp + 2 * alpha * c.fp + 2 * beta * c.fn + lower).clamp(min=1e-7)


def accuracy(c: Confusion, beta: float) -> Tensor:
    return divide(c.tp + c.tn, c.positives + c.negatives)


def fbeta(c: Confusion, beta: float) -> Tensor:
    hit = (1 + beta**2) * c.tp
    return divide(hit, hit + beta**2 * c.fn + c.fp)


def geometric_mean(c: Confusion, beta: float) -> Tensor:
    """Root of the product of both rates; a kind that does not occur has rate 1."""
    return power(divide(c.tp, c.positives, 1.0) * divide(c.tn, c.negatives, 1.0), 0.5)


def balanced_accuracy(c: Confusion, beta: float) -> Tensor:
    """Mean of the rates of the kinds that occur."""
    kinds = (c.positives > 0).to(c.tp.dtype) + (c.negatives > 0).to(c.tp.dtype)
    return divide(divide(c.tp, c.positives) + divide(c.tn, c.negatives), kinds)


def matthews(c: Confusion, beta: float) -> Tensor:
    """Matthews correlation; 0 where a margin is empty. Roots one by one: the product of four counts would overflow."""
    first = power((c.tp + c.fp).relu(), 0.5) * power(c.positives.relu(), 0.5)
    second = power((c.tn + c.fp).relu(), 0.5) * power((c.tn + c.fn).relu(), 0.5)
    return divide(divide(c.tp, first) * c.tn - divide(c.fp, first) * c.fn, second)


def jaccard(c: Confusion, beta: float) -> Tensor:
    return divide(c.tp, c.tp + c.fp + c.fn)


METRICS: dict[str, Callable[[Confusion, float], Tensor]] = {
    "accuracy": accuracy,
    "fbeta": fbeta,
    "gmean": geometric_mean,
    "balanced_accuracy": balanced_accuracy,
    "mcc": matthews,
    "jaccard": jaccard,
}
