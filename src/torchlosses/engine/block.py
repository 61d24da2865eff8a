"""What a rule sees of the targets: one block of rows, views made when asked for, ignored cells False everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchlosses.lazy import lazy

Exists = Tensor | Callable[[], Tensor] | None  # which cells exist: a mask, how to make it, or all


class Block:
    """The targets of a block of rows, beside its scores (b, L).

    Views (each made when first asked for):
        index (b,): the right column; 0 in ignored rows.
        positive, negative (b, L) bool: right and wrong columns; ignored cells are in neither.
        valid (b, L) bool: cells that exist. ``all_valid`` tells whether that is all of them.
        grade (b, L): relevance; 0 in ignored cells.
        probability (b, L): target weights, a distribution where the kind defines one; 0 in ignored cells.
        scores (b, L): the teacher's; 0 in cells that it does not have. known (b, L) bool: cells that both sides have.
        desirable (b,) bool.
        counted (b,) bool: rows that are not ignored.

    Helpers reduce over the existing cells of ``where``: :meth:`logsumexp`, :meth:`sum`, :meth:`mean`, :meth:`max`,
    :meth:`min`, :meth:`count`; :meth:`target` reads the right column; :meth:`differences` forms all pairs.
    """

    def __init__(
        self,
        kind: str,
        rows: dict[str, Tensor],
        shared: dict[str, Tensor],
        options: dict[str, Any],
        size: tuple[int, int],
        start: int,
        dtype: torch.dtype,
        device: torch.device,
        exists: Exists,
        teacher: Tensor | None = None,
        known: Tensor | None = None,
    ) -> None:
        self.kind = kind
        self.dtype = dtype
        self.device = device
        self.size = size
        self.start = start
        self._rows, self._shared, self._options = rows, shared, options
        self._given = exists
        self._teacher = teacher
        self._known = known

    @lazy
    def _exists(self) -> Tensor | None:
        """Cells that exist; None where all do. What the engine gave may be a recipe for the mask, made if a rule asks."""
        mask = self._rows.get("mask")
        given = self._given() if callable(self._given) else self._given
        return mask if given is None else given if mask is None else given & mask

    # --- views -------------------------------------------------------------------------------------------------

    @property
    def all_valid(self) -> bool:
        return self._exists is None

    @lazy
    def valid(self) -> Tensor:
        if self._exists is None:
            return torch.ones(self.size, dtype=torch.bool, device=self.device)
        return self._exists

    @lazy
    def counted(self) -> Tensor:
        """Rows that are not ignored: neither by ignore_index nor by having no existing cell."""
        counted = torch.ones(self.size[0], dtype=torch.bool, device=self.device)
        if self.kind == "classes":
            counted = self._rows["index"] != self._options["ignore_index"]
        if "mask" in self._rows:
            counted = counted & self._rows["mask"].any(-1)
        return counted

    @lazy
    def filled(self) -> Tensor:
        """Rows that have a cell, and whose right column exists where they have one; the others yield no term."""
        if self._exists is None:
            return torch.ones(self.size[0], dtype=torch.bool, device=self.device)
        return self.target(self._exists) if self.has_index else self._exists.any(-1)

    @lazy
    def index(self) -> Tensor:
        if self.kind == "classes":
            return self._rows["index"].masked_fill(~self.counted, 0)
        if self.kind == "paired":
            return torch.arange(self.start, self.start + self.size[0], device=self.device)
        if self.kind == "preferred":
            return torch.zeros(self.size[0], dtype=torch.long, device=self.device)
        raise TypeError(f"targets: {self.kind}() has no single right column per row")

    @property
    def has_index(self) -> bool:
        return self.kind in ("classes", "paired", "preferred")

    @lazy
    def positive(self) -> Tensor:
        if self.has_index:
            hot = torch.zeros(self.size, dtype=torch.bool, device=self.device)
            if self.size[1]:
                hot = hot.scatter(1, self.index[:, None], self.counted[:, None])  # out of place, for vmap
        elif self.kind == "same_label":
            hot = self._rows["labels"][:, None] == self._shared["keys"][None, :]
        elif self.kind == "multi_label":
            hot = self._rows["hot"]
        elif self.kind == "multi_index":
            rows, columns = self.size
            index = self._rows["indices"]
            hot = torch.zeros((rows, columns + 1), dtype=torch.bool, device=self.device)  # padding has its own
            hot = hot.scatter_(1, torch.where(index < 0, columns, index), True)[:, :columns].contiguous()
        elif self.kind == "graded":
            hot = self._rows["relevance"] > 0
        else:
            raise TypeError(f"targets: {self.kind}() does not tell right columns from wrong ones")
        return hot if self._exists is None else hot & self._exists

    @lazy
    def negative(self) -> Tensor:
        return ~self.positive if self._exists is None else self._exists & ~self.positive

    @lazy
    def grade(self) -> Tensor:
        if self.kind == "graded":
            grade = self._rows["relevance"].to(self.dtype)
            return grade if self._exists is None else torch.where(self._exists, grade, 0.0)
        return self.positive.to(self.dtype)

    @lazy
    def probability(self) -> Tensor:
        if self.kind == "soft":
            weight = self._rows["probability"].to(self.dtype)
            return weight if self._exists is None else torch.where(self._exists, weight, 0.0)
        grade = self.grade
        if self.has_index:
            return grade
        total = grade.sum(-1, keepdim=True)
        return grade / torch.where(total == 0, 1.0, total)

    @property
    def scores(self) -> Tensor:
        if self._teacher is None:
            raise TypeError(f"targets: {self.kind}() carries no teacher scores")
        return self._teacher

    @lazy
    def known(self) -> Tensor | None:
        """Cells of both sides; None where that is all the existing ones."""
        return self._where(self._known)

    @property
    def desirable(self) -> Tensor:
        return self._rows["label"]

    @property
    def class_weight(self) -> Tensor | None:
        """(L,) weight of each class, or None."""
        weight = self._shared.get("class_weight")
        return None if weight is None else weight.to(self.dtype)

    @lazy
    def row_weight(self) -> Tensor | None:
        """(b,) weight that the row's class gives it, or None."""
        weight = self.class_weight
        return None if weight is None else weight[self.index]

    # --- masked helpers ----------------------------------------------------------------------------------------

    def _where(self, where: Tensor | None) -> Tensor | None:
        if where is None:
            return self._exists
        return where if self._exists is None else where & self._exists

    def logsumexp(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """log sum exp over the chosen cells (b,); -inf with gradient 0 where there are none."""
        chosen = self._where(where)
        if chosen is None and x.shape[1]:
            return x.logsumexp(-1)
        if not x.shape[1]:
            return x.sum(-1) - torch.inf
        x = x if chosen is None else x.masked_fill(~chosen, -torch.inf)
        return _safe_logsumexp(x)

    def log_softmax(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """Log-probabilities over the chosen cells (b, L); 0 elsewhere, whose exponential does not overflow."""
        chosen = self._where(where)
        if chosen is None:
            return x.log_softmax(-1)
        some = chosen.any(-1, keepdim=True)
        return torch.where(chosen, x.masked_fill(~chosen & some, -torch.inf).log_softmax(-1), 0.0)

    def sum(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """Sum over the chosen cells (b,)."""
        chosen = self._where(where)
        return x.sum(-1) if chosen is None else torch.where(chosen, x, 0.0).sum(-1)

    def count(self, where: Tensor | None = None) -> Tensor:
        """Number of chosen cells (b,), in the scores' dtype."""
        chosen = self._where(where)
        if chosen is None:
            return torch.full(self.size[:1], float(self.size[1]), dtype=self.dtype, device=self.device)
        return chosen.sum(-1).to(self.dtype)

    def mean(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """Mean over the chosen cells (b,); 0 where there are none."""
        return self.sum(x, where) / self.count(where).clamp(min=1)

    def max(self, x: Tensor, where: Tensor | None = None, empty: float = -torch.inf) -> Tensor:
        """Largest of the chosen cells (b,), gradient to the first of equals; ``empty`` where there are none."""
        return self._extreme(x, where, empty, -1)

    def min(self, x: Tensor, where: Tensor | None = None, empty: float = torch.inf) -> Tensor:
        """Smallest of the chosen cells (b,), gradient to the first of equals; ``empty`` where there are none."""
        return self._extreme(x, where, empty, 1)

    def _extreme(self, x: Tensor, where: Tensor | None, empty: float, sign: int) -> Tensor:
        if not x.shape[1]:
            return x.sum(-1) + empty
        chosen = self._where(where)
        shown = x.detach() * -sign
        if chosen is not None:
            shown = shown.masked_fill(~chosen, -torch.inf)
        place = shown.argmax(-1)
        value = x.gather(1, place[:, None]).squeeze(1)
        return value if chosen is None else torch.where(chosen.any(-1), value, empty)

    def target(self, x: Tensor) -> Tensor:
        """The entry of the right column (b,); zeros where there are no columns."""
        if not x.shape[1]:
            return x.new_zeros(x.shape[:1])
        return x.gather(1, self.index[:, None]).squeeze(1)

    def differences(self, x: Tensor) -> Tensor:
        """x_i - x_j for all ordered pairs of a row (b, L, L)."""
        return x[:, :, None] - x[:, None, :]

    def pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """Ordered pairs (b, L, L) whose first cell is in ``first`` and whose second is in ``second``; both exist."""
        chosen_first, chosen_second = self._where(first), self._where(second)
        assert chosen_first is not None and chosen_second is not None
        return chosen_first[:, :, None] & chosen_second[:, None, :]

    def over(self, columns: int, exists: Tensor | None) -> Block:
        """The same rows over other columns, such as groups of the present ones; for targets with an index."""
        block = Block(
            self.kind,
            {name: t for name, t in self._rows.items() if name != "mask"},
            self._shared,
            self._options,
            (self.size[0], columns),
            self.start,
            self.dtype,
            self.device,
            exists,
        )
        block.counted = self.counted
        return block

    def keep(self, cells: Tensor) -> Block:
        """The same block with every other cell ignored (what a miner does)."""
        exists = cells if self._exists is None else cells & self._exists
        rows = {name: t for name, t in self._rows.items() if name != "mask"}
        block = Block(
            self.kind,
            rows,
            self._shared,
            self._options,
            self.size,
            self.start,
            self.dtype,
            self.device,
            exists,
            self._teacher,
            self._known,
        )
        block.counted = self.counted
        return block


def _safe_logsumexp(x: Tensor) -> Tensor:
    """logsumexp whose gradient is 0, not NaN, in rows of -inf only."""
    top = x.detach().amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    total = (x - top).exp().sum(-1)
    some = total > 0
    return torch.where(some, torch.where(some, total, 1.0).log() + top.squeeze(-1), -torch.inf)
