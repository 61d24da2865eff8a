"""Convex (and two bounded) surrogates of the step function, shared by pair rules: large where the difference is small."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SURROGATES = (
    "logistic",
    "hinge",
    "squared_hinge",
    "exponential",
    "sigmoid",
    "square",
    "savage",
)


def surrogate(name: str, difference: Tensor, margin: float | Tensor = 1.0) -> Tensor:
    """phi(d): softplus(-d), relu(m - d), relu(m - d)^2, exp(-d), sigmoid(-d), (m - d)^2 or sigmoid(-d)^2.

    ``margin`` is the m of the hinges and of the square; the others do not use it.
    """
    if name == "logistic":
        return functional.softplus(-difference)
    if name == "hinge":
        return (margin - difference).relu()
    if name == "squared_hinge":
        return (margin - difference).relu().square()
    if name == "exponential":
        return continued_exp(-difference)
    if name == "sigmoid":
        return (-difference).sigmoid()
    if name == "square":
        return (margin - difference).square()
    if name == "savage":
        return (-difference).sigmoid().square()
    raise ValueError(f"phi: expected one of {', '.join(SURROGATES)}, got {name!r}")


def continued_exp(x: Tensor) -> Tensor:
    """exp(x), continued linearly above 80; the value (not the gradient) stops short of the dtype's largest number."""
    high = x.detach() > 80
    value = torch.where(high, 80.0, x).exp()
    steepest = float(torch.exp(torch.tensor(80.0, dtype=torch.float64)))
    limit = torch.finfo(x.dtype).max / steepest / 100
    excess = torch.where(high, x - 80, 0.0)
    excess = excess - (excess.detach() - limit).relu()
    return value + steepest * excess


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), to full precision (torch's default gives up beyond 20); 0 with gradient 0 at -inf."""
    return functional.softplus(x, threshold=80.0)
