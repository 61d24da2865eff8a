"""Triplets: a positive above a negative by a margin. All triplets of a row without listing them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import choice, flag, real
from torchlosses.loss import RowLoss

MINING = ("all", "hard", "semi-hard", "band", "violating", "easy")


class TripletMargin(RowLoss):
    r"""``[s_n - s_p + margin]+`` over a row's positives p and negatives n; ``softplus`` instead of the hinge if smooth.

    All triplets of a row cost one sort, O(L log L): no triplet is listed.

    Arguments:
        margin: in the scores' units.
        mining: which triplets. 'all'; 'hard': the farthest positive and nearest negative of the row; 'semi-hard': for each
            positive the nearest negative that is farther, else the farthest negative; 'band': all with
            0 < s_p - s_n <= margin; 'violating': all with s_n >= s_p; 'easy': the nearest positive and the nearest
            negative that is farther.
        smooth: softplus in place of the hinge; with 'all', 'band' and 'violating' this holds a (rows, positives, L) tensor.
        over: 'active' (triplets with a loss > 0), 'terms' (all triplets), 'rows' or 'valid' (the row's mean triplet).

    >>> import torch, torchlosses as tl
    >>> tl.TripletMargin(margin=0.2)(torch.tensor([[0.5, 0.4, 0.1]]), tl.classes(torch.tensor([0])))
    tensor(0.1000)
    """

    card: ClassVar[Card] = Card(
        title="FaceNet: A Unified Embedding for Face Recognition and Clustering",
        year=2015,
        identifier="arXiv:1503.03832",
        family="metric",
        formula=r"\sum_{p,n} [s_n - s_p + m]_+",
        purpose="Rank every positive above every negative by a margin.",
        tasks=("retrieval", "pairs"),
        scores="euclidean",
        aliases=("TripletMarginLoss", "BatchAllTripletLoss", "BatchHardTripletLoss", "BatchSemiHardTripletLoss"),
        cost="O(B L log L)",
        over="triplets with a loss > 0",
        detached="the choice of triplets",
        note="margin 0.05 as pytorch-metric-learning; FaceNet has 0.2 on squared distances.",
    )
    accepts = ("positive",)
    plain = "multi_label"
    over = "active"
    own_terms = True
    copies = 16.0

    margin: float = real(0.05, "by how much a positive must win", search=(0.01, 1.0, "log"))
    mining: str = choice("all", "which triplets", options=MINING, search=("all", "hard", "semi-hard"))
    smooth: bool = flag(False, "softplus in place of the hinge")

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        if self.mining in ("hard", "easy"):
            return self._one(scores, targets)
        if not scores.shape[1]:
            return scores.sum(-1), scores.sum(-1)
        ranked = Ranked(scores, targets)
        if self.mining == "semi-hard":
            place = ranked.below(ranked.thresholds(0.0)) - 1
            nearest = ranked.negative(scores, place.clamp(min=0))
            chosen = targets.positive & (ranked.total > 0)
            return self._pooled(self._price(nearest - scores), chosen, targets)
        low, high = ranked.range(self.mining, self.margin, self.smooth)
        triplets = targets.sum((high - low).to(scores.dtype), targets.positive)
        if self.smooth:
            value = self._smooth_sum(scores, targets, low, high, ranked)
            return self._averaged(value, triplets, triplets)
        low = low.maximum(ranked.above(ranked.thresholds(-self.margin))).minimum(high)
        active = targets.sum((high - low).to(scores.dtype), targets.positive)
        return self._averaged(ranked.hinges(scores, low, high, self.margin), active, triplets)

    def _price(self, difference: Tensor) -> Tensor:
        x = difference + self.margin
        return -logsigmoid(-x) if self.smooth else x.relu()

    def _one(self, scores: Tensor, targets: Block) -> Returned:
        positive, negative = targets.positive, targets.negative
        if self.mining == "hard":
            near, far = targets.min(scores, positive), targets.max(scores, negative)
        else:
            near = targets.max(scores, positive)
            negative = negative & (scores.detach() < near.detach()[:, None])
            far = targets.max(scores, negative)
        some = positive.any(-1) & negative.any(-1)
        value = self._price(torch.where(some, far, 0.0) - torch.where(some, near, 0.0))
        return self._pooled(value[:, None], some[:, None], targets)

    def _pooled(self, values: Tensor, chosen: Tensor, targets: Block) -> Returned:
        values = torch.where(chosen, values, 0.0)
        active = (values.detach() > 0).sum(-1).to(values.dtype)
        return self._averaged(values.sum(-1), active, chosen.sum(-1).to(values.dtype))

    def _averaged(self, total: Tensor, active: Tensor, triplets: Tensor) -> Returned:
        if self.over == "active":
            return total, active
        if self.over in ("terms", "pairs"):
            return total, triplets
        return total / triplets.clamp(min=1), triplets

    def _smooth_sum(self, scores: Tensor, targets: Block, low: Tensor, high: Tensor, ranked: Ranked) -> Tensor:
        """Only the positives' columns are expanded."""
        width = int(targets.positive.sum(-1).max()) if scores.shape[0] else 0
        place = targets.positive.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[:, :width]
        chosen = targets.positive.gather(1, place)
        ordered = scores.gather(1, ranked.order)
        rank = torch.arange(scores.shape[1], device=scores.device)
        inside = (rank >= low.gather(1, place)[:, :, None]) & (rank < high.gather(1, place)[:, :, None])
        price = self._price(ordered[:, None, :] - scores.gather(1, place)[:, :, None])
        return torch.where(inside & chosen[:, :, None], price, 0.0).sum((1, 2))


class Ranked:
    """The negatives of each row in ascending order, ties by index, other cells behind them at +inf."""

    def __init__(self, scores: Tensor, targets: Block) -> None:
        self.positive = targets.positive
        self.shown = scores.detach()
        filled = self.shown.masked_fill(~targets.negative, torch.inf)
        self.sorted, self.order = filled.sort(dim=-1, stable=True)
        self.total = targets.negative.sum(-1, keepdim=True)

    def thresholds(self, shift: float) -> Tensor:
        return (self.shown + shift).contiguous()

    def below(self, threshold: Tensor) -> Tensor:
        """How many negatives are smaller than each threshold (b, L)."""
        return torch.searchsorted(self.sorted, threshold).minimum(self.total)

    def above(self, threshold: Tensor) -> Tensor:
        """How many negatives are not larger: the first place whose negative is larger."""
        return torch.searchsorted(self.sorted, threshold, right=True).minimum(self.total)

    def negative(self, scores: Tensor, place: Tensor) -> Tensor:
        """The negative at a place; the lowest index among equals."""
        first = torch.searchsorted(self.sorted, self.sorted.gather(1, place))
        return scores.gather(1, self.order.gather(1, first.clamp(max=scores.shape[1] - 1)))

    def range(self, mining: str, margin: float, smooth: bool) -> tuple[Tensor, Tensor]:
        """For each column as a positive, the places [low, high) of the negatives it makes triplets with."""
        high = self.total.expand_as(self.order)
        if mining == "all":
            return torch.zeros_like(high), high
        level = self.below(self.thresholds(0.0))
        if mining == "violating":
            return level, high
        return self.below(self.thresholds(-margin)), level

    def hinges(self, scores: Tensor, low: Tensor, high: Tensor, margin: float) -> Tensor:
        """Sum of s_n - s_p + margin over the chosen triplets, from how often each cell takes part."""
        positive = self.positive
        times = torch.where(positive, high - low, 0)
        steps = torch.zeros((scores.shape[0], scores.shape[1] + 1), dtype=torch.long, device=scores.device)
        steps.scatter_add_(1, low, (positive & (high > low)).long())
        steps.scatter_add_(1, high, -(positive & (high > low)).long())
        as_negative = torch.zeros_like(times).scatter_(1, self.order, steps.cumsum(1)[:, :-1])
        # measured from one of the row's positives, so that large common offsets cancel
        first = positive.to(torch.int8).argmax(-1, keepdim=True)
        centred = scores - self.shown.gather(1, first)
        weight = (as_negative - times).to(scores.dtype)
        return torch.where(weight != 0, weight * centred, 0.0).sum(-1) + margin * times.sum(-1).to(scores.dtype)
