"""Intervals and tests. The unit is the test example (or query), its score averaged over seeds.

An interval resamples seeds and examples together; it is widened as Student's t asks for few seeds. A difference is claimed
where two tests agree after Holm's adjustment for all comparisons: the paired permutation test over examples, and Student's
with the variance that seeds and examples make together. The first alone would call the luck of a few seeds a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
DRAWS = 2000
PERMUTATIONS = 9999

Scores = NDArray[np.float64]  # (seeds, examples)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and examples, and where it would lie with other seeds and examples."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """One objective less the reference.

    ``permutation`` is the p of the permutation test over examples; ``p`` the larger of it and of Student's test, which
    counts seeds too; ``adjusted`` is ``p`` after Holm, and ``shown`` says that it is below 0.05.
    """

    interval: Interval
    permutation: float
    p: float
    adjusted: float
    shown: bool


def interval(scores: Scores, seed: int, draws: int = DRAWS) -> Interval:
    """The mean with its 95% interval, by resampling both dimensions.

    One fewer is drawn than there are, of each dimension, which makes the variance of the resampled mean that of the mean.

    >>> interval(np.array([[0.0, 1.0, 1.0, 1.0]] * 3), seed=0).mean
    0.75
    """
    mean = float(scores.mean())
    if scores.size < 2 or np.ptp(scores) == 0:
        return Interval(mean, mean, mean)
    generator = np.random.default_rng(seed)
    means = _resampled(scores, generator, draws)
    low, high = np.quantile(means, [TAIL, 1 - TAIL])
    variance, parts = _variance(scores)
    # Resampling both dimensions counts the chance of a single cell three times; once is right.
    spread = float(means.std())
    wider = _quantile(parts, TAIL) / float(stats.norm.isf(TAIL)) * (variance**0.5 / spread if spread else 1.0)
    least, most = float(scores.min()), float(scores.max())
    if least < 0:  # a difference, or an unbounded score: no end to cut at
        least, most = -np.inf, np.inf
    return Interval(mean, max(least, mean - wider * (mean - low)), min(most, mean + wider * (high - mean)))


def _resampled(scores: Scores, generator: np.random.Generator, draws: int) -> Scores:
    """The mean of each draw, some draws at a time."""
    found = []
    room = max(1, 4_000_000 // scores.shape[1])
    for start in range(0, draws, room):
        count = min(room, draws - start)
        seeds, examples = (_weights(generator, size, count) for size in scores.shape)
        found.append(((seeds @ scores) * examples).sum(axis=1))
    return np.concatenate(found)


def _weights(generator: np.random.Generator, size: int, draws: int) -> Scores:
    """Shares of each of ``size`` in every draw."""
    if size == 1:
        return np.ones((draws, 1))
    drawn = generator.integers(size, size=(draws, size - 1)) + size * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * size).reshape(draws, size) / (size - 1)


def _variance(scores: Scores) -> tuple[float, list[tuple[float, int]]]:
    """The variance of the mean over other seeds and examples; its parts with their degrees of freedom."""
    parts = []
    for axis, size in enumerate(scores.shape):
        if size > 1:
            parts.append((float(scores.mean(axis=1 - axis).var(ddof=1)) / size, size - 1))
    total = sum(variance for variance, _ in parts)
    if len(parts) == 2 and total:  # what a single cell adds stands in both parts
        rest = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
        cells = float((rest**2).sum()) / ((scores.shape[0] - 1) * (scores.shape[1] - 1))
        total = max(total - cells / scores.size, max(variance for variance, _ in parts))
    return total, parts


def _quantile(parts: Sequence[tuple[float, int]], tail: float) -> float:
    """Student's upper quantile, averaged over the parts of a variance by their sizes (Cochran and Cox): never too small."""
    total = sum(variance for variance, _ in parts)
    return sum(float(stats.t.isf(tail, freedom)) * variance for variance, freedom in parts) / total


def student(difference: Scores) -> float:
    """p of a mean of 0, seeds and examples both counted."""
    variance, parts = _variance(difference)
    mean = abs(float(difference.mean()))
    if variance == 0 or mean == 0:
        return 1.0 if mean == 0 else 0.0
    found = mean / variance**0.5
    if _quantile(parts, 1e-12) < found:
        return 1e-12
    return 2 * float(brentq(lambda tail: _quantile(parts, tail) - found, 1e-12, 0.5))


def paired(first: Scores, second: Scores, seed: int, permutations: int = PERMUTATIONS) -> float:
    """p of the two-sided permutation test over examples: in each, which of the two scored what may be exchanged.

    >>> paired(np.ones((3, 20)), np.zeros((3, 20)), seed=0)
    0.0002
    """
    a, b = first.mean(axis=0), second.mean(axis=0)
    kept = a != b  # exchanging equal scores changes nothing
    if kept.sum() < 2:  # one example may favour either
        return 1.0

    def statistic(x: Scores, y: Scores, axis: int) -> Any:
        return np.round((x - y).sum(axis=axis), 12)  # equal sums are equal, whatever the order of adding

    found = stats.permutation_test(
        (a[kept], b[kept]),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, 2_000_000 // int(kept.sum())),
        random_state=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """Adjusted p values: the chance of any false claim stays below the level.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted = [0.0] * len(values)
    largest = 0.0
    for place, k in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - place) * values[k]))
        adjusted[k] = largest
    return adjusted


def against(reference: Scores, others: Sequence[Scores], seed: int, draws: int = DRAWS) -> list[Difference]:
    """Every other less the reference. Row k of all is the same seed: seeds, too, are compared in pairs."""
    tests = [paired(other, reference, seed) for other in others]
    values = [max(p, student(other - reference)) for p, other in zip(tests, others, strict=True)]
    return [
        Difference(interval(other - reference, seed, draws), test, p, adjusted, adjusted < 1 - LEVEL)
        for other, test, p, adjusted in zip(others, tests, values, holm(values), strict=True)
    ]
