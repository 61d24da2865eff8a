"""Files as named columns: .npz, .csv, .parquet, LibSVM ranking files, a Hugging Face dataset directory, ``digits``."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchlosses.compare.refusal import Refusal

Column = NDArray[Any]  # one entry or one array of equal shape for each row; text has kind U
Table = dict[str, Column]

LIBSVM = (".libsvm", ".svm", ".train", ".txt")
EXPECTED = "digits, a .npz, .csv or .parquet file, a LibSVM file with query sizes beside it, or a dataset directory"


def read(source: str) -> tuple[str, Table]:
    """A name and the columns of a source; a Refusal that says what is wrong where it cannot be read."""
    if source == "digits":
        return "digits", _digits()
    path = Path(source)
    readers: dict[str, Callable[[Path], Table]] = {".npz": _npz, ".csv": _csv, ".parquet": _parquet}
    suffix = path.suffix.lower()
    reader = _dataset if path.is_dir() else readers.get(suffix)
    if reader is None and (suffix in LIBSVM or sizes_of(path).is_file()):
        reader = _libsvm
    if reader is None:
        raise Refusal(f"DATA: expected {EXPECTED}; got {source!r}")
    if not path.exists():
        raise Refusal(f"DATA: no such file: {source}")
    try:
        table = reader(path)
    except (OSError, ValueError, EOFError, KeyError, csv.Error, zipfile.BadZipFile) as problem:
        raise Refusal(f"DATA: cannot read {source}: {problem}") from None
    if not table:
        raise Refusal(f"DATA: {source} holds no columns")
    return path.stem or path.name, table


def _digits() -> Table:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return {"x": bunch.images, "y": bunch.target}


def _npz(path: Path) -> Table:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _csv(path: Path) -> Table:
    """A first line of names; cells are numbers, lists such as [1, 2], or text; an empty cell is a missing number."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, strict=True)
        names = next(rows, [])
        cells: list[list[str]] = []
        for row in rows:
            if not row:
                continue
            if len(row) != len(names):
                raise ValueError(f"line {rows.line_num}: expected {len(names)} cells, got {len(row)}")
            cells.append(row)
    if len(set(names)) < len(names):
        raise ValueError("two columns have the same name")
    return {name: _typed([row[k] for row in cells]) for k, name in enumerate(names)}


def _typed(cells: Sequence[str]) -> Column:
    filled = [cell.strip() for cell in cells]
    try:
        return np.array([float(cell) if cell else np.nan for cell in filled])
    except ValueError:
        pass
    if all(cell.startswith("[") for cell in filled):
        return stacked([json.loads(cell) for cell in filled])
    return np.array(cells, dtype=np.str_)


def stacked(values: Sequence[Any]) -> Column:
    """Python values, or lists of equal lengths, as one array."""
    if any(value is None for value in values):
        if any(isinstance(value, str) for value in values):
            raise ValueError(f"row {list(values).index(None)} holds no text")
        values = [np.nan if value is None else value for value in values]
    if values and isinstance(values[0], (list, tuple)):
        lengths = {len(value) if isinstance(value, (list, tuple)) else 0 for value in values}
        if len(lengths) > 1:
            raise ValueError(f"lists of unequal lengths: {min(lengths)} to {max(lengths)}")
    return np.array(values)


def _parquet(path: Path) -> Table:
    try:
        from pyarrow import lib, parquet
    except ModuleNotFoundError:
        raise needs("data", ".parquet files", "pyarrow") from None
    try:
        return _arrow(parquet.read_table(path))
    except lib.ArrowException as problem:
        raise ValueError(problem) from None


def _dataset(path: Path) -> Table:
    try:
        import datasets
    except ModuleNotFoundError:
        raise needs("data", "dataset directories", "datasets") from None
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as problem:  # it raises many kinds
        raise ValueError(f"no saved dataset (Dataset.save_to_disk) is in this directory ({problem})") from None
    if isinstance(found, datasets.DatasetDict):
        first = next(iter(found))
        raise ValueError(f"it holds several splits ({', '.join(found)}); name one, for example {path / first}")
    images = [name for name, feature in found.features.items() if isinstance(feature, datasets.Image)]
    table = _arrow(found.remove_columns(images).with_format("arrow")[:]) if len(images) < len(found.features) else {}
    return table | {name: np.stack([np.asarray(image) for image in found[name]]) for name in images}


def _arrow(table: Any) -> Table:
    found: Table = {}
    for name in table.column_names:
        column = table.column(name)
        plain = column.null_count == 0 and str(column.type) in ("int64", "int32", "float", "double", "bool")
        try:
            found[name] = column.to_numpy() if plain else stacked(column.to_pylist())
        except ValueError as problem:
            raise ValueError(f"column {name!r}: {problem}") from None
    return found


def sizes_of(path: Path) -> Path:
    """Where the numbers of lines of each query stand, if they are not in the file as qid."""
    return path.with_name(path.name + ".query")


def _libsvm(path: Path) -> Table:
    from sklearn.datasets import load_svmlight_file

    loaded: Any = load_svmlight_file(str(path), query_id=True)
    x, y, query = loaded
    beside = sizes_of(path)
    if beside.is_file():
        sizes = np.array([int(line) for line in beside.read_text().split()])
        if (sizes < 1).any() or sizes.sum() != len(y):
            raise ValueError(f"{beside.name} counts {sizes.sum()} lines in {len(sizes)} queries, the file has {len(y)}")
        query = np.repeat(np.arange(len(sizes)), sizes)
    elif len(query) != len(y):
        raise ValueError(f"no query sizes: expected qid:N on each line, or a file {beside.name}")
    return {"x": x.toarray(), "y": y, "group": query}


def needs(extra: str, what: str, package: str) -> Refusal:
    return Refusal(f"{what} need the extra '{extra}' ({package} is not installed): pip install 'torchlosses[{extra}]'")
