"""What ``prepare`` sees: one whole call, before any block of it is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from torchlosses.engine.block import Block
from torchlosses.engine.lazy import lazy
from torchlosses.lowering import working_dtype
from torchlosses.scores import Scores
from torchlosses.targets import Targets


class Batch:
    """Rows, columns, device and dtype of a call; its scores and targets, each made when first asked for."""

    def __init__(self, recipe: Scores, factor: float | Tensor | None, targets: Targets) -> None:
        self._recipe, self._factor, self._targets = recipe, factor, targets
        self.rows, self.columns = recipe.rows, recipe.columns_count
        self.device, self.dtype = recipe.device, working_dtype(recipe.dtype)

    @lazy
    def targets(self) -> Block:
        """The targets of all rows. Cells that only the scores mask (own cells, -inf) count as existing here."""
        t = self._targets
        size = (self.rows, self.columns)
        return Block(t.kind, dict(t.rows), dict(t.shared), dict(t.options), size, 0, self.dtype, self.device, None)

    @torch.no_grad()
    def scores(self) -> Tensor:
        """All scores (B, L) as the rule will see them, without gradient: one product, the whole matrix."""
        recipe = self._recipe if self._factor is None else self._recipe * self._factor
        return recipe.tensor().detach().reshape(self.rows, self.columns).to(self.dtype)
