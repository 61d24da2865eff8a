"""Hinges on single pairs, positives and negatives in two pools."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import choice, flag, real
from torchlosses.loss import RowLoss


class Contrastive(RowLoss):
    r"""Positives above one margin, negatives below another, each side averaged over its own pairs, then added.

    ``form='similarity'``: ``[m+ - s]+`` on positives and ``[s - m-]+`` on negatives. ``form='distance'``, for scores that
    are minus distances: ``[d - m+]+`` and ``[m- - d]+`` with d = -s.

    Arguments:
        positive_margin: None for 1 (similarity) or 0 (distance).
        negative_margin: None for 0 (similarity) or 1 (distance).
        form: what the margins measure.
        squared: half the square of each hinge (Hadsell, Chopra and LeCun).
        over: 'active' (each side's pairs with a loss > 0), 'pairs' (all pairs of the side), or 'rows' (the row's mean
            of each side, over all rows).

    >>> import torch, torchlosses as tl
    >>> tl.Contrastive()(torch.tensor([[0.8, 0.3, -0.5]]), tl.classes(torch.tensor([0])))
    tensor(0.5000)
    """

    card: ClassVar[Card] = Card(
        title="Dimensionality Reduction by Learning an Invariant Mapping",
        year=2006,
        identifier="doi:10.1109/CVPR.2006.100",
        family="metric",
        formula=r"\mathrm{mean}_p [m_+ - s_p]_+ + \mathrm{mean}_n [s_n - m_-]_+",
        purpose="Bring same pairs within, and push other pairs beyond, a margin.",
        tasks=("retrieval", "pairs"),
        scores="cosine",
        aliases=("ContrastiveLoss", "pair contrastive"),
        over="each side's pairs with a loss > 0",
        equals=("ContrastiveLoss of sentence-transformers: squared=True, over='rows' on lists of one",),
    )
    accepts = ("positive",)
    plain = "multi_label"
    over = "active"
    own_terms = True

    positive_margin: float | None = real(None, "where a positive stops to cost", optional=True, search=(0.5, 1.0))
    negative_margin: float | None = real(None, "where a negative stops to cost", optional=True, search=(0.0, 0.8))
    form: str = choice("similarity", "what the margins measure", options=("similarity", "distance"))
    squared: bool = flag(False, "half the squared hinge")

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        distance = self.form == "distance"
        high = (0.0 if distance else 1.0) if self.positive_margin is None else self.positive_margin
        low = (1.0 if distance else 0.0) if self.negative_margin is None else self.negative_margin
        if distance:
            high, low = -high, -low
        # a cosine of 1 is 1 up to rounding: such a pair counts as active whichever way it was rounded
        slack = 0.0 if distance else 4 * torch.finfo(scores.dtype).eps * abs(high)
        return {
            "positive": self._side(high - scores, slack, targets, targets.positive),
            "negative": self._side(scores - low, 0.0, targets, targets.negative),
        }

    def _side(self, excess: Tensor, slack: float, targets: Block, where: Tensor) -> tuple[Tensor, Tensor]:
        hinge = excess.relu()
        value = 0.5 * hinge.square() if self.squared else hinge
        if self.over in ("rows", "valid"):
            return targets.mean(value, where), targets.count(where)
        counted = where & (excess.detach() > -slack) if self.over == "active" else where
        return targets.sum(value, where), targets.count(counted)
