"""Metrics, one number for each test example or query.

Conventions: among equal scores the wrong (lower graded) alternatives stand first, so that a tie never helps. NDCG counts a
grade g as 2^g - 1, divides the place p by log2(p + 1), and looks at the first 10 places, as does its ideal. A right
alternative is one with a grade above 0; average precision looks at all places. R@k is 1 where any right alternative is among
the first k. mAP@R looks at the first R places, R being the number of right alternatives, and divides by R.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

Values = NDArray[np.float64]
CUTOFF = 10
BINS = 15
LEAST = 1e-12  # a probability of 0 (Sparsemax) counts as this in a logarithm


@dataclass(frozen=True)
class Metric:
    """Its name in tables; which way is better; whether its mean over examples is the metric; what it is."""

    title: str
    higher: bool
    each: bool
    meaning: str


METRICS = {
    "accuracy": Metric("accuracy", True, True, "share of examples whose predicted class is right"),
    "macro_f1": Metric("macro F1", True, False, "F1 of each class, averaged over classes"),
    "nll": Metric("NLL", False, True, "-log of the right class's probability, after one temperature fitted on validation"),
    "calibration": Metric(
        "calib. error",
        False,
        False,
        f"expected calibration error over {BINS} equal bins of the top probability, after that temperature",
    ),
    "label_map": Metric("mAP of labels", True, True, "average precision of an example's labels, ranked by score"),
    "top_right": Metric("top label right", True, True, "share of examples whose highest label is a right one"),
    "map_at_r": Metric("mAP@R", True, True, "precision at each right place up to R, summed, divided by R"),
    "mrr": Metric("MRR", True, True, "1 / place of the first right alternative"),
    "map": Metric("MAP", True, True, "average precision"),
    "recall_at_1": Metric("R@1", True, True, "share of queries whose first alternative is right"),
    "recall_at_10": Metric("R@10", True, True, "share of queries with a right one among the first 10"),
    "ndcg_at_10": Metric("NDCG@10", True, True, "gain 2^grade - 1, discount log2(place + 1), first 10 places"),
}


@dataclass(frozen=True)
class Judged:
    """Metrics of one model on one part: ``each`` has a number for every example, ``whole`` one for all together."""

    each: dict[str, Values]
    whole: dict[str, float | None]

    def mean(self, name: str) -> float | None:
        values = self.each.get(name)
        return self.whole.get(name) if values is None else float(values.mean())


def ranked(scores: NDArray[Any], grades: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> Values:
    """Grades (Q, L) in the order of falling scores; cells that are not valid come last, as -1.

    >>> ranked(np.array([[1.0, 3.0, 3.0]]), np.array([[1, 2, 0]]))
    array([[0., 2., 1.]])
    """
    grades = grades.astype(np.float64)
    if valid is not None:
        scores, grades = np.where(valid, scores, -np.inf), np.where(valid, grades, -1.0)
        order = np.lexsort((grades, -scores, ~valid), axis=1)
    else:
        order = np.lexsort((grades, -scores), axis=1)
    found: Values = np.take_along_axis(grades, order, axis=1)
    return found


def ranking(grades: Values, names: tuple[str, ...]) -> dict[str, Values]:
    """The named metrics of :func:`ranked` grades; every row needs a right alternative.

    >>> found = ranking(np.array([[0.0, 1.0, 1.0]]), ("mrr", "map", "map_at_r", "recall_at_1"))
    >>> {name: round(float(value[0]), 4) for name, value in found.items()}
    {'mrr': 0.5, 'map': 0.5833, 'map_at_r': 0.25, 'recall_at_1': 0.0}
    """
    right = grades > 0
    total = right.sum(axis=1)
    places = np.arange(1, grades.shape[1] + 1)
    first = right.argmax(axis=1) + 1
    precision = np.where(right, right.cumsum(axis=1) / places, 0.0)
    every: dict[str, Callable[[], Values]] = {
        "mrr": lambda: 1.0 / first,
        "map": lambda: precision.sum(axis=1) / total,
        "map_at_r": lambda: np.where(places <= total[:, None], precision, 0.0).sum(axis=1) / total,
        "recall_at_1": lambda: (first <= 1).astype(np.float64),
        "recall_at_10": lambda: (first <= 10).astype(np.float64),
        "ndcg_at_10": lambda: _gain(grades) / _gain(-np.sort(-grades, axis=1)),
    }
    return {name: every[name]() for name in names}


def _gain(grades: Values) -> Values:
    kept = np.maximum(grades[:, :CUTOFF], 0.0)
    found: Values = ((2.0**kept - 1) / np.log2(np.arange(2, kept.shape[1] + 2))).sum(axis=1)
    return found


def temperature(probabilities: Values, truth: NDArray[np.int64]) -> float:
    """The one that makes the mean NLL of these examples least, in [0.05, 20]."""
    logs = np.log(np.maximum(probabilities, LEAST))
    found: Any = minimize_scalar(
        lambda log_t: _nll(logs / np.exp(log_t), truth),
        bounds=(np.log(0.05), np.log(20.0)),
        method="bounded",
    )
    return float(np.exp(found.x))


def _nll(logits: Values, truth: NDArray[np.int64]) -> float:
    return float(-_log_softmax(logits)[np.arange(len(truth)), truth].mean())


def tempered(probabilities: Values, t: float) -> Values:
    """Probabilities with their logarithms divided by t, summing to 1 again."""
    found: Values = np.exp(_log_softmax(np.log(np.maximum(probabilities, LEAST)) / t))
    return found


def _log_softmax(logits: Values) -> Values:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: Values = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def calibration_error(probabilities: Values, truth: NDArray[np.int64]) -> float:
    """Mean over examples of |confidence - accuracy| of their bin.

    >>> calibration_error(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]))
    0.4
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gap = np.bincount(bins, confidence - right, BINS)
    return float(np.abs(gap).sum() / len(truth))
