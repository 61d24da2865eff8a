"""How rows become one number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Terms = dict[str, tuple[Tensor, Tensor]]
OVER = ("rows", "valid", "active", "terms", "pairs")


def safe_inverse(count: Tensor) -> Tensor:
    """1 / count, and 0 for a count of 0."""
    some = count != 0
    return torch.where(some, 1 / torch.where(some, count, 1.0), 0.0)


@dataclass(frozen=True)
class Reduction:
    """From named terms, each (values (B,), counts (B,)), to one number. Terms are pooled by their own counts and added."""

    pools_linearly = False  # a row's value enters with a factor that is known before the rows, or 1 / count
    divides = False  # that factor is 1 / count

    def __call__(self, terms: Terms) -> Tensor:
        return torch.stack([self.term(value, count) for value, count in terms.values()]).sum()

    def term(self, value: Tensor, count: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Mean(Reduction):
    """Sum of values over sum of counts; 0 with a graph where nothing counts."""

    pools_linearly = True
    divides = True

    def term(self, value: Tensor, count: Tensor) -> Tensor:
        return value.sum() * safe_inverse(count.sum())


@dataclass(frozen=True)
class Sum(Reduction):
    """Sum of values."""

    pools_linearly = True

    def term(self, value: Tensor, count: Tensor) -> Tensor:
        return value.sum()


@dataclass(frozen=True)
class Unreduced(Reduction):
    """The rows' values (B,), terms added."""

    def __call__(self, terms: Terms) -> Tensor:
        return torch.stack([value for value, _ in terms.values()]).sum(0)


@dataclass(frozen=True)
class CVaR(Reduction):
    """Mean of the worst share ``alpha`` of the counted rows (conditional value at risk), fractional row included.

    With n counted rows and k = alpha n, the floor(k) largest values count fully and the next one by the fraction.

    >>> import torch
    >>> CVaR(0.5).term(torch.tensor([1.0, 4.0, 2.0, 3.0]), torch.ones(4))
    tensor(3.5000)
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha: expected a number in (0, 1], got {self.alpha!r}")

    def term(self, value: Tensor, count: Tensor) -> Tensor:
        if value.shape[0] == 0:
            return value.sum()
        each = torch.where(count > 0, value / torch.where(count > 0, count, 1.0), 0.0)
        shown = torch.where(count > 0, each.detach(), -torch.inf)
        order = shown.argsort(descending=True, stable=True)
        sorted_count = count[order]
        budget = self.alpha * count.sum()
        taken = (budget - (sorted_count.cumsum(0) - sorted_count)).clamp(min=0).minimum(sorted_count)
        return (taken * each[order]).sum() * safe_inverse(budget)


@dataclass(frozen=True)
class ResidualNormalized(Reduction):
    """Mean of the rows over the mean of their residuals ``1 - exp(-value)``, which carry no gradient.

    For logistic losses and cross-entropy the residual is ``1 - p_y``: gradient descent then interpolates between logistic
    regression and the batch perceptron, and solves separable problems in few steps. ``cap`` bounds the factor.

    "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step Sizes", 2024,
    arXiv:2412.08424.

    >>> import torch
    >>> ResidualNormalized().term(torch.tensor([0.6931, 0.6931]), torch.ones(2))
    tensor(1.3863)
    """

    cap: float = 1e12

    def __post_init__(self) -> None:
        if not self.cap > 0:
            raise ValueError(f"cap: expected a number > 0, got {self.cap!r}")

    def term(self, value: Tensor, count: Tensor) -> Tensor:
        total = count.sum()
        each = (value.detach() / torch.where(count > 0, count, 1.0)).clamp(min=0)
        residual = (-torch.expm1(-each) * count).sum().clamp(min=total / self.cap)
        return value.sum() * safe_inverse(residual)


NAMED = {"mean": Mean(), "sum": Sum(), "none": Unreduced()}
ReductionLike = str | Reduction


def as_reduction(reduction: ReductionLike) -> Reduction:
    """A reduction by name ('mean', 'sum', 'none') or itself."""
    if isinstance(reduction, Reduction):
        return reduction
    if reduction not in NAMED:
        raise ValueError(f"reduction: expected 'mean', 'sum', 'none' or a Reduction such as CVaR(0.1), got {reduction!r}")
    return NAMED[reduction]
