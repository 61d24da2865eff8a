"""Training labels made worse on purpose: flipped, or with rare classes. Validation and test stay as they are."""

from __future__ import annotations

import numpy as np

from torchlosses.compare.data import Data, Index


def flipped(data: Data, train: Index, share: float, seed: int) -> Index:
    """The labels, with this share of the training rows given another class, drawn evenly from the others."""
    generator = np.random.default_rng([seed, 1])
    y: Index = data.y.copy()
    chosen = generator.choice(train, size=round(share * len(train)), replace=False)
    y[chosen] = (y[chosen] + generator.integers(1, len(data.labels), size=len(chosen))) % len(data.labels)
    return y


def thinned(data: Data, train: Index, factor: float, seed: int) -> Index:
    """Training rows whose classes shrink geometrically: the last keeps one in ``factor`` of what the first keeps."""
    generator = np.random.default_rng([seed, 2])
    kinds = len(data.labels)
    kept = []
    for place, label in enumerate(generator.permutation(kinds)):  # which class is rare is drawn
        rows = generator.permutation(train[data.y[train] == label])
        count = max(1, round(len(rows) * factor ** (-place / max(1, kinds - 1))))
        kept.append(rows[:count])
    return np.sort(np.concatenate(kept))
