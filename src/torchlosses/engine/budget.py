"""How many bytes of scores may exist at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

MIB = 1 << 20


@dataclass(frozen=True)
class Budget:
    """``dense``: matrices up to this many bytes are materialized; ``block``: bytes of one block of scores."""

    dense: int = 16 * MIB
    block: int = 16 * MIB
    least_rows: int = 256  # thin products are slow, so a block holds this many rows ...
    most: int = 100 * MIB  # ... up to this many bytes

    share: float = 1 / 8  # ... or this share of the operands' own bytes: beside a million classes a block may be larger

    def rows(self, total: int, columns: int, itemsize: int, copies: float, operands: int = 0) -> int:
        """Rows of a block whose rule holds ``copies`` matrices like the block, made from so many bytes of operands."""
        per_row = max(1, columns * itemsize)
        fit = self.block / (per_row * max(1.0, copies / 4))
        rows = self.least_rows * (2 if copies <= 1 else 1)  # a rule that holds nothing beside the block may take more
        thick = min(rows, int(max(self.most, self.share * operands)) // per_row)
        return max(1, min(total, int(max(fit, thick if copies < 16 else 1))))


_DEFAULT = Budget()
_current: ContextVar[Budget] = ContextVar("torchlosses_budget", default=_DEFAULT)


def current() -> Budget:
    """The budget in force; while compiling, the default (a context variable cannot be traced)."""
    return _DEFAULT if torch.compiler.is_compiling() else _current.get()


@contextmanager
def memory_budget(block: int | None = None, dense: int | None = None) -> Iterator[None]:
    """Sets the byte budget of the enclosed calls (their backward passes included).

    Arguments:
        block: bytes that one block of scores may take; the number of rows follows from it.
        dense: matrices up to this size are materialized and left to ordinary autograd; 0 always works in blocks.

    >>> import torch, torchlosses as tl
    >>> with tl.memory_budget(block=4096, dense=0):
    ...     tl.CrossEntropy()(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))
    tensor(1.3863)
    """
    old = _current.get()
    for name, value in (("block", block), ("dense", dense)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise ValueError(f"{name}: expected a number of bytes >= 0, got {value!r}")
    new = Budget(
        old.dense if dense is None else dense,
        old.block if block is None else max(1, block),
        old.least_rows if block is None else 1,
        old.most,
    )
    token = _current.set(new)
    try:
        yield
    finally:
        _current.reset(token)
