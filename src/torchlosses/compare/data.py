"""What is compared on: columns chosen and checked. Every refusal comes before any training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchlosses.compare.options import Options
from torchlosses.compare.refusal import Refusal
from torchlosses.compare.table import Column, Table, read

Index = NDArray[np.int64]
Floats = NDArray[np.float32]
Embed = Callable[[list[str]], Floats]
LABELS = ("y", "label", "labels")


@dataclass(frozen=True)
class Data:
    """Examples: ``x`` (N, ...) float32 and ``y``, which a task reads as it needs.

    ``y`` is (N,) the index of each label in ``labels``; (N, C) zeros and ones; or (N,) grades, without ``labels``.
    ``group`` (N,) numbers what belongs together (a query's documents). With ``right`` (N, ...) a row is a judged pair of
    ``x`` and ``right``. ``texts`` says that features come from a sentence encoder and are left as they are.
    """

    name: str
    x: Floats
    y: NDArray[Any]
    labels: tuple[str, ...] = ()
    group: Index | None = None
    right: Floats | None = None
    texts: bool = False
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape[1:]

    def at(self, rows: Index) -> Data:
        """Some of the rows."""

        def pick(value: NDArray[Any] | None) -> Any:
            return None if value is None else value[rows]

        return replace(self, x=self.x[rows], y=self.y[rows], group=pick(self.group), right=pick(self.right))


def load(options: Options, embed: Embed | None = None) -> Data:
    """The data that the options name; ``embed`` turns text into numbers."""
    name, table = read(options.data)
    named = {"--label": options.label, "--group": options.group, "--left": options.left}
    named |= {"--right": options.right, "--text": options.text}
    for flag, column in named.items():
        if column is not None and column not in table:
            raise Refusal(f"{flag}: no column {column!r} in {options.data}, which has {', '.join(table)}")
    if (options.left is None) != (options.right is None):
        raise Refusal("--left and --right: one needs the other")
    if options.left is not None and options.task != "pairs":
        raise Refusal(f"--left and --right: they are for the task pairs, not {options.task}")
    label = options.label or next((c for c in LABELS if c in table), None)
    group = options.group or ("group" if "group" in table else None)
    if options.task == "ranking" and group is None:
        raise Refusal("ranking needs groups: name the column of the queries with --group")
    if label is None and options.left is None:
        raise Refusal(f"DATA: expected arrays x and y in {options.data}, found {', '.join(table)}; name it with --label")
    sides = [options.left, options.right] if options.left is not None else [None]
    used: dict[str, Column] = {}
    arrays: list[Floats] = []
    texts = False
    for side in sides:
        chosen = [side] if side is not None else _features(table, options, {label, group})
        used |= {column: table[column] for column in chosen}
        text = table[chosen[0]].dtype.kind == "U" and (side is not None or options.text is not None)
        texts = texts or text
        arrays.append(_embedded(chosen[0], table[chosen[0]], embed) if text else _numbers(chosen, table))
    first = next(iter(used))
    x = arrays[0]
    for column in filter(None, (label, group)):
        used[column] = table[column]
    for column, values in used.items():
        if values.ndim == 0 or len(values) != len(x):
            got = len(values) if values.ndim else "a single value"
            what = "label" if column == label else "entry"
            raise Refusal(f"{column}: expected one {what} for each row of {first} ({len(x)}), got {got}")
    found = Data(name, x, np.zeros(0), texts=texts, fingerprint=fingerprint(used))
    if len(arrays) == 2:
        found = replace(found, right=arrays[1])
    if group is not None:
        found = replace(found, group=_codes(group, table[group])[0])
    if label is None:
        return replace(found, y=np.ones(len(x)))
    if options.task in ("ranking", "pairs") and (options.task == "ranking" or options.left is not None):
        return replace(found, y=_grades(label, table[label]))
    return _labelled(found, label, table[label])


def checked(name: str, x: NDArray[Any], y: NDArray[Any]) -> Data:
    """Arrays as Data, or a Refusal that says what is wrong with them."""
    found = _numbers(["x"], {"x": x})
    if y.ndim == 0 or len(y) != len(found):
        raise Refusal(f"y: expected one label for each row of x ({len(found)}), got {len(y) if y.ndim else 'one'}")
    return _labelled(Data(name, found, np.zeros(0), fingerprint=fingerprint({"x": x, "y": y})), "y", y)


def fingerprint(columns: Table) -> str:
    """Names the content: equal columns have equal fingerprints."""
    digest = hashlib.sha256()
    for name, values in columns.items():
        digest.update(repr((name, values.shape, values.dtype.str)).encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _features(table: Table, options: Options, taken: set[str | None]) -> list[str]:
    if options.text is not None:
        if table[options.text].dtype.kind != "U":
            raise Refusal(f"--text: column {options.text!r} holds no text")
        return [options.text]
    if "x" in table:
        return ["x"]
    rest = [name for name in table if name not in taken]
    if options.data.lower().endswith(".npz") or not rest:
        raise Refusal(f"DATA: expected arrays x and y in {options.data}, found {', '.join(table) or 'nothing'}")
    for name in rest:
        if table[name].dtype.kind == "U":
            where, value = _not_a_number(table[name])
            hint = "text is read with --text COLUMN and --encoder text:PATH; leave other text out of the file"
            raise Refusal(f"{name}: expected numbers, got {value!r} in row {where}; {hint}")
    return rest


def _not_a_number(values: Column) -> tuple[int, str]:
    for row, value in enumerate(values):
        try:
            float(value)
        except ValueError:
            return row, str(value)[:40]
    return 0, str(values[0])[:40]


def _numbers(names: Iterable[str], table: Table) -> Floats:
    """Columns side by side as float32; one column of arrays keeps its shape."""
    arrays = []
    for name in names:
        values = table[name]
        if name == "x" and values.ndim < 2:
            raise Refusal(f"x: expected shape (examples, features...), got {values.shape}")
        if values.dtype.kind not in "fiub":
            raise Refusal(f"{name}: expected numbers, got {values.dtype}")
        if not len(values) or not values[0].size:
            raise Refusal(f"{name}: expected at least one example with one feature, got shape {values.shape}")
        with np.errstate(over="ignore"):
            flat = values.astype(np.float32)
        bad = np.asarray(~np.isfinite(flat.reshape(len(flat), -1)).all(axis=1))
        if bad.any():
            raise Refusal(f"{name}: expected finite numbers, got NaN or infinity in {_rows(bad)}")
        arrays.append(flat)
    if len(arrays) == 1 and arrays[0].ndim > 1:
        return arrays[0]
    if len({len(a) for a in arrays}) > 1:
        raise Refusal(f"columns of unequal lengths: {', '.join(f'{n} {len(table[n])}' for n in names)}")
    return np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1)


def _embedded(name: str, values: Column, embed: Embed | None) -> Floats:
    if embed is None:
        raise Refusal(f"{name}: holds text; give a sentence encoder with --encoder text:PATH")
    blank = np.array([not str(value).strip() for value in values])
    if blank.any():
        raise Refusal(f"{name}: expected text, got none in {_rows(blank)}")
    distinct, where = np.unique(values, return_inverse=True)  # each text once
    return embed([str(value) for value in distinct])[where]


def _codes(name: str, y: Column) -> tuple[Index, tuple[str, ...]]:
    """Integers or strings as indices of the sorted distinct ones."""
    if y.ndim != 1:
        raise Refusal(f"{name}: expected shape (examples,), got {y.shape}")
    if y.dtype.kind == "f":
        wrong = np.asarray(~np.isfinite(y))
        if wrong.any():
            raise Refusal(f"{name}: expected a label for each example, got NaN or infinity in {_rows(wrong)}")
        if (y != np.floor(y)).any():
            raise Refusal(f"{name}: expected class labels (integers or strings), got fractions")
        y = y.astype(np.int64)
    if y.dtype.kind not in "iubU":
        raise Refusal(f"{name}: expected class labels (integers or strings), got {y.dtype}")
    labels, index = np.unique(y, return_inverse=True)
    return index.astype(np.int64), tuple(str(label) for label in labels)


def _labelled(data: Data, name: str, y: Column) -> Data:
    if y.ndim == 2 and y.dtype.kind in "fiub":
        if not np.isin(y, (0, 1)).all():
            raise Refusal(f"{name}: expected zeros and ones, a column for each label, got other numbers")
        if y.shape[1] < 2:
            raise Refusal(f"{name}: expected at least two labels, got one column")
        return replace(data, y=y.astype(np.float32), labels=tuple(str(k) for k in range(y.shape[1])))
    index, labels = _codes(name, y)
    return replace(data, y=index, labels=labels)


def _grades(name: str, y: Column) -> NDArray[np.float64]:
    if y.ndim != 1 or y.dtype.kind not in "fiub":
        raise Refusal(f"{name}: expected a grade (a number of at least 0) for each row, got {y.dtype} {y.shape}")
    grades = y.astype(np.float64)
    bad = ~np.isfinite(grades) | (grades < 0)
    if bad.any():
        raise Refusal(f"{name}: expected finite grades of at least 0, got {grades[bad][0]:g} in {_rows(bad)}")
    if grades.max(initial=0) > 30:
        raise Refusal(f"{name}: expected grades of at most 30 (NDCG counts a grade g as 2^g - 1), got {grades.max():g}")
    return grades


def _rows(bad: NDArray[Any]) -> str:
    count, first = int(bad.sum()), int(bad.argmax())
    return f"row {first}" if count == 1 else f"{count} rows, first in row {first}"
