"""Turns public data sets in their own formats into files that ``torchlosses compare`` reads.

    python examples/prepare.py mnist DIRECTORY mnist.npz          # images and digits
    python examples/prepare.py mnist-labels DIRECTORY many.npz    # images and several labels each
    python examples/prepare.py cranfield DIRECTORY cranfield.csv  # queries, documents and grades

MNIST: IDX files, gzipped. Cranfield: cran.all.1400, cran.qry, cranqrel.
"""

from __future__ import annotations

import csv
import gzip
import re
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PROPERTIES = {  # of the digits 0-9: even, prime, a square, at least 5, drawn with a closed loop, a multiple of 3
    "even": (0, 2, 4, 6, 8),
    "prime": (2, 3, 5, 7),
    "square": (0, 1, 4, 9),
    "large": (5, 6, 7, 8, 9),
    "loop": (0, 6, 8, 9),
    "threefold": (3, 6, 9),
}
DISPUTED = 5  # a Cranfield grade whose meaning nobody knows


def mnist(source: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images (N, 28, 28) in [0, 1] and digits (N,)."""
    parts = []
    for path in sorted(source.glob("*idx*-ubyte*")):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dimensions = raw[3]
        shape = np.frombuffer(raw, ">i4", dimensions, offset=4)
        parts.append(np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape))
    images, digits = sorted(parts, key=lambda part: -part.ndim)
    return images.astype(np.float32) / 255, digits.astype(np.int64)


def properties(digits: NDArray[np.int64]) -> NDArray[np.float32]:
    """What is true of each digit (N, 6), as zeros and ones."""
    return np.stack([np.isin(digits, chosen) for chosen in PROPERTIES.values()], 1).astype(np.float32)


def cranfield(source: Path) -> list[tuple[str, str, int]]:
    """(query, document, grade 1-4, larger is better) of every judgement; other documents stand once, with grade 0."""
    documents = _records((source / "cran.all.1400").read_text(), "T", "W")
    queries = list(_records((source / "cran.qry").read_text(), "W").values())  # judgements name them by position
    found: list[tuple[str, str, int]] = []
    seen = set()
    for line in (source / "cranqrel").read_text().splitlines():
        query, _, document, grade = (int(entry) for entry in line.split())
        if grade != DISPUTED and 1 <= grade <= 4 and documents.get(document):
            found.append((queries[query - 1], documents[document], 5 - grade))
            seen.add(document)
    return found + [(queries[0], text, 0) for number, text in documents.items() if text and number not in seen]


def _records(text: str, *fields: str) -> dict[int, str]:
    """Numbered records ``.I n`` and the text of some of their fields, on one line."""
    found: dict[int, str] = {}
    for record in re.split(r"^\.I ", text, flags=re.MULTILINE)[1:]:
        number, _, body = record.partition("\n")
        parts = dict(re.findall(r"^\.([A-Z])\n(.*?)(?=^\.[A-Z]$|\Z)", body, flags=re.MULTILINE | re.DOTALL))
        found[int(number)] = " ".join(" ".join(parts.get(field, "").split()) for field in fields).strip()
    return found


def main(kind: str, source: str, out: str) -> None:
    if kind == "cranfield":
        with Path(out).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("query", "document", "grade"))
            writer.writerows(cranfield(Path(source)))
    elif kind in ("mnist", "mnist-labels"):
        images, digits = mnist(Path(source))
        np.savez_compressed(out, x=images, y=digits if kind == "mnist" else properties(digits))
    else:
        raise SystemExit(f"expected mnist, mnist-labels or cranfield, got {kind!r}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
