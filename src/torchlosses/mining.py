"""Miners: wrappers that decide which cells a loss sees. A dropped cell is ignored, so any row loss can be wrapped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome
from torchlosses.hyperparameters import choice, integer, real
from torchlosses.loss import RowLoss, Wrapper


class Miner(Wrapper):
    """A wrapper whose :meth:`keep` says which cells of a block remain; no gradient passes through the choice."""

    def __init__(self, loss: RowLoss, **hyperparameters: Any) -> None:
        super().__init__(loss, **hyperparameters)
        self._needs_columns()

    def keep(self, scores: Tensor, targets: Block) -> Tensor:
        """True where the cell remains, (b, L); ``scores`` carry no gradient."""
        raise NotImplementedError

    def _evaluate(self, scores: Tensor, targets: Block, fields: dict[str, Tensor]) -> Outcome:
        kept = self.keep(scores.detach(), targets)
        return self.loss._evaluate(scores.masked_fill(~kept, 0.0), targets.keep(kept), fields)


class HardNegatives(Miner):
    """Keeps the positives and the ``k`` largest-scoring negatives of each row; the lowest index among equals.

    Arguments:
        loss: any row loss whose targets tell right columns from wrong ones.
        k: negatives kept, >= 0.

    >>> import torch, torchlosses as tl
    >>> loss = tl.HardNegatives(tl.InfoNCE(temperature=1.0), k=1)
    >>> loss(torch.tensor([[1.0, 1.0, 0.0, -2.0]]), tl.classes(torch.tensor([0])))
    tensor(0.6931)
    """

    k: int = integer(10, "negatives kept in each row", low=0, search=(1, 100))

    def __init__(self, loss: RowLoss, k: int = 10, **hyperparameters: Any) -> None:
        super().__init__(loss, k=k, **hyperparameters)

    def keep(self, scores: Tensor, targets: Block) -> Tensor:
        k = min(self.k, scores.shape[1])
        if not k:
            return targets.positive
        shown = scores.masked_fill(~targets.negative, -torch.inf)
        least = shown.topk(k, dim=-1).values[:, -1:]
        above, equal = shown > least, (shown == least) & targets.negative
        room = k - above.sum(-1, keepdim=True)
        return targets.positive | above | (equal & (equal.cumsum(-1) <= room))


class GuidedFilter(Miner):
    """Drops negatives that a guide scores above the positive: likely unlabelled positives.

    The guide is a second Scores of the same shape, attached to the targets: ``paired().guided(cosine(a, b))``. A row with
    several positives is judged by the one that the guide scores highest; positives are always kept.

    Arguments:
        loss: any row loss whose targets tell right columns from wrong ones.
        margin: how far below the positive a negative must lie.
        strategy: drop where the guide's score is above ``p - margin`` ('absolute'), ``p - |p| margin`` ('relative'), or
            above ``margin`` itself whatever the positive ('threshold').

    Source: GISTEmbed (2024, arXiv:2402.16829); NV-Retriever (2024, arXiv:2407.15831).

    >>> import torch, torchlosses as tl
    >>> loss = tl.GuidedFilter(tl.InfoNCE(temperature=1.0))
    >>> guide = torch.tensor([[0.5, 0.9, 0.1]])
    >>> loss(torch.zeros(1, 3), tl.classes(torch.tensor([0])).guided(guide))
    tensor(0.6931)
    """

    joint_support = False  # a cell that the guide does not know stays

    margin: float = real(0.0, "distance below the positive from which negatives are kept", search=(0.0, 0.2))
    strategy: str = choice("absolute", "what the margin measures", options=("absolute", "relative", "threshold"))

    def __init__(self, loss: RowLoss, margin: float = 0.0, strategy: str = "absolute", **hyperparameters: Any) -> None:
        super().__init__(loss, margin=margin, strategy=strategy, **hyperparameters)

    def keep(self, scores: Tensor, targets: Block) -> Tensor:
        known = targets.known
        guide = targets.scores if known is None else targets.scores.masked_fill(~known, -torch.inf)
        if self.strategy == "threshold":
            return targets.positive | (guide <= self.margin)
        best = targets.max(guide, targets.positive)
        best = torch.where(best == -torch.inf, torch.inf, best)  # no right column known: nothing to judge by
        slack = self.margin * best.abs() if self.strategy == "relative" else self.margin
        return targets.positive | (guide <= (best - slack)[:, None])


__all__ = ["GuidedFilter", "HardNegatives", "Miner"]
