"""Dividing data into what is trained on, what settings are chosen by, and what is reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torchlosses.compare.data import Data, Floats, Index
from torchlosses.compare.refusal import Refusal


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts; no row is in two of them."""

    train: Index
    validation: Index
    test: Index

    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}


def by_example(data: Data, seed: int) -> Split:
    """60, 20 and 20 percent of every class."""
    several_classes(data)
    generator = np.random.default_rng(seed)
    parts: tuple[list[Index], list[Index], list[Index]] = ([], [], [])
    for label, rows in _members(data).items():
        if len(rows) < 3:
            raise Refusal(
                f"too few examples: classification needs 3 of every class (train, validation, test), "
                f"class {label} has {len(rows)}"
            )
        held = max(1, round(0.2 * len(rows)))
        rows = generator.permutation(rows)
        for part, chosen in zip(parts, (rows[2 * held :], rows[:held], rows[held : 2 * held]), strict=True):
            part.append(chosen)
    return Split(*(np.sort(np.concatenate(part)) for part in parts))


def by_class(data: Data, seed: int, unseen: Sequence[str] = ()) -> Split:
    """About 40, 30 and 30 percent of the classes: what is retrieved was never trained on, in validation neither.

    ``unseen`` names the classes to test on; of the others, 60 percent are trained on.
    """
    several_classes(data)
    members = _members(data)
    if len(members) < 6:
        raise Refusal(
            f"too few classes: retrieval needs at least 6 (2 each to train, validate and test on), got {len(members)}"
        )
    held = max(2, round(0.3 * len(members)))
    order = np.random.default_rng(seed).permutation(len(members))
    validation, test, train = order[:held], order[held : 2 * held], order[2 * held :]
    if unseen:
        names = list(members)
        for name in unseen:
            if name not in members:
                raise Refusal(f"--unseen: no class {name!r} in the data, which has {', '.join(names[:20])}")
        test = np.array([k for k, name in enumerate(names) if name in unseen])
        rest = order[~np.isin(order, test)]
        if len(test) < 2 or len(rest) < 4:
            raise Refusal(f"--unseen: expected at least 2 classes, and at least 4 others, got {len(test)} and {len(rest)}")
        held = max(2, round(0.4 * len(rest)))
        validation, train = rest[:held], rest[held:]

    def rows_of(chosen: Index) -> Index:
        return np.flatnonzero(np.isin(data.y, chosen)).astype(np.int64)

    return Split(rows_of(train), rows_of(validation), rows_of(test))


def by_group(group: Index, seed: int, what: str = "groups") -> Split:
    """60, 20 and 20 percent of the groups, each whole."""
    kinds = np.unique(group)
    if len(kinds) < 10:
        raise Refusal(f"too few examples: expected at least 10 {what}, got {len(kinds)}")
    held = round(0.2 * len(kinds))
    order = kinds[np.random.default_rng(seed).permutation(len(kinds))]
    parts = order[2 * held :], order[:held], order[held : 2 * held]
    return Split(*(np.flatnonzero(np.isin(group, part)).astype(np.int64) for part in parts))


def scaled(x: Floats, train: Index) -> Floats:
    """Every feature with mean 0 and spread 1 on the training rows, cut off at 10 spreads elsewhere."""
    part = x[train].astype(np.float64)
    spread = part.std(axis=0)
    spread[spread == 0] = 1.0
    found: Floats = np.clip((x - part.mean(axis=0)) / spread, -10, 10).astype(np.float32)
    return found


def several_classes(data: Data) -> None:
    if len(data.labels) < 2:
        raise Refusal(f"y: expected at least two classes, got one ({', '.join(data.labels)})")


def _members(data: Data) -> dict[str, Index]:
    return {label: np.flatnonzero(data.y == k).astype(np.int64) for k, label in enumerate(data.labels)}
