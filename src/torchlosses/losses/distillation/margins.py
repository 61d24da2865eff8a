"""Distillation of a ranker's margins."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import choice
from torchlosses.loss import RowLoss


class MarginMSE(RowLoss):
    r"""Squared error between a student's and a teacher's margins: :math:`((s_i-s_j)-(t_i-t_j))^2`.

    Arguments:
        pairs: 'first' (column 0 with every other) or 'all' pairs that the teacher orders, t_i > t_j.
        per_row: 'mean' over a row's pairs, or their 'sum' (with ``over='pairs'``: pooled over the batch).

    Targets: ``teacher(scores)``. A constant added to a row of either side changes nothing.

    >>> import torch, torchlosses as tl
    >>> tl.MarginMSE()(torch.tensor([[3.0, 1.0]]), tl.teacher(torch.tensor([[9.0, 6.0]])))
    tensor(1.)
    """

    card: ClassVar[Card] = Card(
        title="Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
        year=2020,
        identifier="arXiv:2010.02666",
        family="distillation",
        formula=r"\frac{1}{|P|}\sum_{(i,j)\in P}\left((s_i-s_j)-(t_i-t_j)\right)^2",
        purpose="Distil a cross-encoder into a retriever, whatever the scale's origin.",
        tasks=("retrieval",),
        scores="list",
        aliases=("MarginMSELoss", "SupervisedMarginMSE"),
        cost="O(BL), 'all': O(BL^2)",
        detached="the teacher",
    )
    accepts = ("scores",)

    pairs: str = choice("first", "pairs of a row", options=("first", "all"))
    per_row: str = choice("mean", "how a row's pairs become its value", options=("mean", "sum"))

    def temporaries(self, columns: int) -> float:
        return 8.0 + (4.0 * columns if self.pairs == "all" else 0.0)  # about four (b, L, L)

    def rule(self, scores: Tensor, targets: Block) -> Returned:
        known = targets.scores.detach().to(scores.dtype)
        error = scores - known
        if self.pairs == "first":
            others = targets.valid.clone()
            others[:, :1] = False
            others &= targets.valid[:, :1]
            total, count = targets.sum((error[:, :1] - error).square(), others), targets.count(others)
        else:
            ordered = targets.pairs(targets.valid, targets.valid) & (targets.differences(known) > 0)
            total = torch.where(ordered, targets.differences(error).square(), 0.0).sum((1, 2))
            count = ordered.sum((1, 2)).to(scores.dtype)
        return (total / count.clamp(min=1) if self.per_row == "mean" else total), count
