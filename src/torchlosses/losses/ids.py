"""Ids of training examples, by which per-example state is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from torchlosses.lowering import can_branch


def checked_ids(ids: Tensor, examples: int) -> Tensor:
    """Ids as indices, or a message that says what they should be; values are checked on the CPU, asserted elsewhere."""
    if ids.dtype.is_floating_point or ids.dtype == torch.bool:
        raise TypeError(f"ids: expected an integer tensor, got {ids.dtype}")
    bad = (ids < 0) | (ids >= examples)
    if not can_branch(ids):
        if ids.device.type != "cpu" and not torch.compiler.is_compiling():
            torch._assert_async(~bad.any())
    elif bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise ValueError(f"ids: expected integers in [0, {examples}), got {int(ids[row])} at row {row}")
    return ids.long()


def last_rows(ids: Tensor) -> Tensor:
    """The rows that are the last of their id: what they store does not depend on the order in which rows are written."""
    ordered, order = ids.sort(stable=True)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return order[last]
