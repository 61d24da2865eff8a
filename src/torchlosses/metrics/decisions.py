"""Decisions under a utility, and whether they sacrifice the tail."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def tail_sensitive_utility(classes: int, value: float = -1.0) -> Tensor:
    """Utility (C, C) of deciding j when y is right, classes ordered from head to tail: ``value`` where j < y, else 0.

    >>> tail_sensitive_utility(3)
    tensor([[ 0.,  0.,  0.],
            [-1.,  0.,  0.],
            [-1., -1.,  0.]])
    """
    return torch.full((classes, classes), value).tril(-1)


def expected_utility(probability: Tensor, utility: Tensor) -> Tensor:
    """Expected utility (..., C) of each decision; decide by its argmax.

    Arguments:
        probability: (..., C) of the classes, or (K, ..., C) averaged over an ensemble beforehand.
        utility: (C, C), row = the right class, column = the decision; the identity gives the probabilities back.

    >>> import torch
    >>> u = torch.eye(2) + tail_sensitive_utility(2)
    >>> expected_utility(torch.tensor([[0.6, 0.4]]), u)
    tensor([[0.2000, 0.4000]])
    """
    if utility.dim() != 2 or utility.shape[0] != probability.shape[-1]:
        raise ValueError(f"utility: expected shape ({probability.shape[-1]}, decisions), got {tuple(utility.shape)}")
    return probability @ utility.to(probability.dtype)


def false_head_rate(
    predictions: Tensor, targets: Tensor, classes: int, ratios: Sequence[float] = (0.25, 0.5, 0.75)
) -> Tensor:
    """Share of tail examples that were given to a head class, for each place where the tail begins.

    Arguments:
        predictions, targets: (B,) class indices, classes ordered from head to tail.
        classes: how many there are.
        ratios: the tail is the classes from ``round(ratio * classes)`` on; report the entries and their mean.

    A tail without examples gives NaN. "Making Reliable and Flexible Decisions in Long-tailed Classification" (RF-DLC), 2025.

    >>> import torch
    >>> false_head_rate(torch.tensor([0, 0, 3]), torch.tensor([0, 2, 3]), classes=4)
    tensor([0.5000, 0.5000, 0.0000])
    """
    if predictions.shape != targets.shape:
        raise ValueError(f"predictions: expected shape {tuple(targets.shape)} as targets, got {tuple(predictions.shape)}")
    found = []
    for ratio in ratios:
        first = round(ratio * classes)
        tail = targets >= first
        found.append((tail & (predictions < first)).sum() / tail.sum())
    return torch.stack(found)
