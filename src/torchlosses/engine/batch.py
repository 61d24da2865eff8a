"""What ``prepare`` sees: one whole call, before any block of it is computed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torchlosses.engine.block import Block
from torchlosses.lazy import lazy
from torchlosses.lowering import working_dtype
from torchlosses.scores import Scores
from torchlosses.targets import Targets


class Batch:
    """Rows, columns, device and dtype of a call; its scores and targets, each made when first asked for."""

    def __init__(self, recipe: Scores, factor: float | Tensor | None, targets: Targets) -> None:
        self._recipe, self._factor, self._targets = recipe, factor, targets
        self.rows, self.columns = recipe.rows, recipe.columns_count
        self.device, self.dtype = recipe.device, working_dtype(recipe.dtype)

    @property
    def recipe(self) -> Scores:
        """The scores' operands, for rules that need more of them than their scores."""
        return self._recipe

    @lazy
    def targets(self) -> Block:
        """The targets of all rows. Cells that only the scores mask (own cells, -inf) count as existing here."""
        t = self._targets
        size = (self.rows, self.columns)
        return Block(t.kind, dict(t.rows), dict(t.shared), dict(t.options), size, 0, self.dtype, self.device, None)

    def right(self) -> Tensor:
        """The right column's score (B,) as the rule will see it, without gradient; no whole matrix where features allow."""
        index = self.targets.index
        piece = self._recipe.pieces[0]
        per_column = any(isinstance(f, Tensor) and f.dim() == 2 and f.shape[1] != 1 for _, f in piece.steps)
        if len(self._recipe.pieces) > 1 or piece.right is None or piece.private or per_column:
            return self.targets.target(self.scores())
        own = replace(piece, right=piece.right[index][:, None], private=True, own_rows=None, own_columns=None)
        with torch.no_grad():
            recipe = Scores([own]).times(self._factor)
            return recipe.tensor().reshape(self.rows).to(self.dtype)

    def scores(self) -> Tensor:
        """All scores (B, L) as the rule will see them, without gradient: one product, the whole matrix."""
        with torch.no_grad():
            recipe = self._recipe.times(self._factor)
            return recipe.tensor().detach().reshape(self.rows, self.columns).to(self.dtype)
