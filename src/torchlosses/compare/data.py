"""What is compared on: loading, checks, splits. Every refusal comes before any training."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchlosses.compare.refusal import Refusal

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """Examples with labels: ``x`` (N, F) float32, ``y`` (N,) the index of each label in ``labels``."""

    name: str
    x: NDArray[np.float32]
    y: Index
    labels: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Names the content: equal data have equal fingerprints."""
        digest = hashlib.sha256(repr((self.x.shape, self.labels)).encode())
        digest.update(np.ascontiguousarray(self.x).tobytes())
        digest.update(np.ascontiguousarray(self.y).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts; no row is in two of them."""

    train: Index
    validation: Index
    test: Index

    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}


def load(source: str) -> Data:
    """``digits`` (scikit-learn's 1797 images of handwritten digits) or a .npz file with arrays x and y."""
    if source == "digits":
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        return checked("digits", bunch.data, bunch.target)
    path = Path(source)
    if path.suffix.lower() != ".npz":
        raise Refusal(f"DATA: expected 'digits' or a file that ends in .npz, got {source!r}")
    if not path.is_file():
        raise Refusal(f"DATA: no such file: {source}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in ("x", "y"):
                if name not in archive.files:
                    held = ", ".join(archive.files) or "nothing"
                    raise Refusal(f"DATA: expected arrays x and y in {source}, found {held}")
            x, y = archive["x"], archive["y"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as problem:
        raise Refusal(f"DATA: cannot read {source}: {problem}") from None
    return checked(path.stem, x, y)


def checked(name: str, x: NDArray[Any], y: NDArray[Any]) -> Data:
    """The arrays as Data, or a Refusal that says what is wrong with them."""
    if x.ndim < 2:
        raise Refusal(f"x: expected shape (examples, features...), got {x.shape}")
    if x.dtype.kind not in "fiub":
        raise Refusal(f"x: expected numbers, got {x.dtype}")
    if y.ndim != 1:
        raise Refusal(f"y: expected shape (examples,), got {y.shape}")
    if len(x) != len(y):
        raise Refusal(f"y: expected one label for each row of x ({len(x)}), got {len(y)}")
    if not len(x) or not x[0].size:
        raise Refusal(f"x: expected at least one example with one feature, got shape {x.shape}")
    flat = x.reshape(len(x), -1).astype(np.float32)
    bad = np.asarray(~np.isfinite(flat).all(axis=1))
    if bad.any():
        raise Refusal(f"x: expected finite numbers, got NaN or infinity in {_rows(bad)}")
    if y.dtype.kind == "f":
        wrong = np.asarray(~np.isfinite(y))
        if wrong.any():
            raise Refusal(f"y: expected a label for each example, got NaN or infinity in {_rows(wrong)}")
        if (y != np.floor(y)).any():
            raise Refusal("y: expected class labels (integers or strings), got fractions")
        y = y.astype(np.int64)
    labels, index = np.unique(y, return_inverse=True)
    return Data(name, flat, index.astype(np.int64), tuple(str(label) for label in labels))


def _rows(bad: NDArray[Any]) -> str:
    count, first = int(bad.sum()), int(bad.argmax())
    return f"row {first}" if count == 1 else f"{count} rows, first in row {first}"


def by_example(data: Data, seed: int) -> Split:
    """60, 20 and 20 percent of every class."""
    _several_classes(data)
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


def by_class(data: Data, seed: int) -> Split:
    """About 40, 30 and 30 percent of the classes: what is retrieved was never trained on, in validation neither."""
    _several_classes(data)
    members = _members(data)
    if len(members) < 6:
        raise Refusal(
            f"too few classes: retrieval needs at least 6 (2 each to train, validate and test on), got {len(members)}"
        )
    for label, rows in members.items():
        if len(rows) < 2:
            raise Refusal(f"too few examples: retrieval needs 2 of every class, class {label} has 1")
    held = max(2, round(0.3 * len(members)))
    order = np.random.default_rng(seed).permutation(len(members))

    def rows_of(chosen: Index) -> Index:
        return np.flatnonzero(np.isin(data.y, chosen)).astype(np.int64)

    return Split(rows_of(order[2 * held :]), rows_of(order[:held]), rows_of(order[held : 2 * held]))


def by_row(data: Data, seed: int) -> Split:
    """60, 20 and 20 percent of the rows, whatever their classes."""
    count = len(data.x)
    if count < 10:
        raise Refusal(f"too few examples: pairs needs at least 10, got {count}")
    held = round(0.2 * count)
    order = np.random.default_rng(seed).permutation(count).astype(np.int64)
    return Split(np.sort(order[2 * held :]), np.sort(order[:held]), np.sort(order[held : 2 * held]))


def scaled(x: NDArray[np.float32], train: Index) -> NDArray[np.float32]:
    """Every feature with mean 0 and spread 1 on the training rows, cut off at 10 spreads elsewhere."""
    part = x[train].astype(np.float64)
    spread = part.std(axis=0)
    spread[spread == 0] = 1.0
    found: NDArray[np.float32] = np.clip((x - part.mean(axis=0)) / spread, -10, 10).astype(np.float32)
    return found


def _several_classes(data: Data) -> None:
    if len(data.labels) < 2:
        raise Refusal(f"y: expected at least two classes, got one ({data.labels[0]})")


def _members(data: Data) -> dict[str, Index]:
    return {label: np.flatnonzero(data.y == k).astype(np.int64) for k, label in enumerate(data.labels)}
