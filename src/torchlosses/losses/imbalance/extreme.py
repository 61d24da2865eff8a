"""Very many labels: dual encoders whose right columns do not compete with each other, and hard negatives of the batch."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from torchlosses.card import Card
from torchlosses.draws import Draws
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import flag, integer, real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.binary import CellLoss
from torchlosses.losses.contrastive.infonce import InfoNCE
from torchlosses.lowering import can_branch
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets

ROUNDS = 48  # at most; Newton on the log-odds of the total takes about 8, a bracket falls back to halving


class SampledPositives(Draws):
    """Mixin of losses that may ask for a few drawn right columns of each row instead of all."""

    sample: bool = flag(False, "draw some of a row's right columns and leave the others out")

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """One random number per row, as the field ``draw``."""
        if not self.sample:
            return {}
        return {"draw": self.drawn(lambda g: torch.randint(1 << 62, (batch.rows, 1), generator=g), batch.device)}


def kept_positives(targets: Block, draw: Tensor, k: int) -> Block:
    """The block with k of the right cells of each row, drawn by one number per row, and the other right cells ignored."""
    where = targets.positive
    key = draw + torch.arange(1, where.shape[1] + 1, device=draw.device) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1)):  # the mixer of SplitMix64
        key = (key ^ (key >> shift)) * factor
    key = key.masked_fill(~where, torch.iinfo(key.dtype).min)
    chosen = torch.zeros_like(where).scatter_(1, key.topk(min(k, where.shape[1]), dim=1).indices, True)
    return targets.keep(chosen | ~where)


class DecoupledSoftmax(SampledPositives, InfoNCE):
    r"""Decoupled softmax for many labels: each right column competes with the wrong ones only, mean over the right ones.

    Arguments:
        temperature: divides the scores, > 0.
        sample: one right column of each row is drawn and the others left out: the same value on average.
        seed: of that draw's generator, whose state is in ``state_dict``.

    >>> import torch, torchlosses as tl
    >>> tl.DecoupledSoftmax(temperature=1.0)(torch.tensor([[2.0, 1.0, 0.0]]), tl.multi_label(torch.tensor([[1, 1, 0]])))
    tensor(0.2201)
    """

    card: ClassVar[Card] = Card(
        title="Dual-Encoders for Extreme Multi-Label Classification",
        year=2023,
        identifier="arXiv:2310.10636",
        family="imbalance",
        formula=r"\frac1{|P|}\sum_{p\in P}\log\Bigl(1+\sum_{j\notin P}e^{(s_j-s_p)/\tau}\Bigr)",
        purpose="Retrieval of all right labels among millions: no right label is pushed down by another.",
        tasks=("retrieval", "classification"),
        scores="cosine",
        aliases=("DEXML", "DecoupledSoftmaxLoss", "decoupled multi-label InfoNCE"),
        equals=("InfoNCE(positives_in_denominator='own')",),
    )

    temperature = 0.05
    positives_in_denominator = "own"
    copies = 16.0

    def rule(
        self,
        scores: Tensor,
        targets: Block,
        *,
        draw: Tensor | None = None,
        log_weight: Tensor | None = None,
        positive_weight: Tensor | None = None,
    ) -> Returned:
        kept = targets if draw is None else kept_positives(targets, draw, 1)
        return super().rule(scores, kept, log_weight=log_weight, positive_weight=positive_weight)


class _Threshold(torch.autograd.Function):
    """t with sum_j sigmoid(alpha (s_j + t)) = k in every row; its gradient by the implicit function theorem."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: Tensor, valid: Tensor, alpha: float) -> Tensor:
        reach = max(10.0, math.log(max(1, scores.shape[1]))) / alpha  # beyond it the sum is below 1, or above L - 1
        low = -scores.masked_fill(~valid, -torch.inf).amax(-1, keepdim=True) - reach
        high = -scores.masked_fill(~valid, torch.inf).amin(-1, keepdim=True) + reach
        low, high = torch.where(low.isfinite(), low, 0.0), torch.where(high.isfinite(), high, 0.0)
        columns = valid.sum(-1, keepdim=True).to(scores.dtype)
        goal, tiny = torch.log(k / (columns - k)), 8 * torch.finfo(scores.dtype).eps
        t = (low + high) / 2
        for _ in range(ROUNDS):
            q = torch.where(valid, torch.sigmoid(alpha * (scores + t)), 0.0)
            total, slope = q.sum(-1, keepdim=True), alpha * (q * (1 - q)).sum(-1, keepdim=True)
            low, high = torch.where(total < k, t, low), torch.where(total < k, high, t)
            rest = columns - total
            newton = t + (goal - torch.log(total / rest)) / (slope * (1 / total + 1 / rest))
            slack = tiny * (1 + t.abs())
            inside = (newton >= low - slack) & (newton <= high + slack)  # False for nan
            last, t = t, torch.where(inside, newton, (low + high) / 2)
            settled = ((t - last).abs() <= slack) | ((total - k).abs() <= tiny / 4 * k)
            if can_branch(t) and bool(settled.all()):
                break
        ctx.save_for_backward(scores, t, valid)
        ctx.alpha = alpha
        return t

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scores, t, valid = ctx.saved_tensors
        x = ctx.alpha * (scores + t)
        steepness = functional.logsigmoid(x) + functional.logsigmoid(-x)  # log of q (1 - q), whose sum may underflow
        share = steepness.masked_fill(~valid, torch.finfo(x.dtype).min).softmax(-1)
        return -grads[0] * torch.where(valid, share, 0.0), None, None, None


def _log_soft_top_k(scores: Tensor, k: Tensor, valid: Tensor, alpha: float) -> Tensor:
    t: Tensor = _Threshold.apply(scores, k, valid, alpha)  # type: ignore[no-untyped-call]
    return functional.logsigmoid(alpha * (scores + t))


def soft_top_k(scores: Tensor, k: int | Tensor, alpha: float = 2.0) -> Tensor:
    r"""Differentiable top-k: ``q_j = sigmoid(alpha (s_j + t))`` with t such that every row sums to k.

    Arguments:
        scores: (..., L).
        k: in (0, L), a number or one per row (...,).
        alpha: > 0; larger is nearer to the hard top k.

    Source: Dual-Encoders for Extreme Multi-Label Classification, 2023, arXiv:2310.10636. t is found to
    rounding by safeguarded Newton steps; the gradient is that of the exact solution. O(L) per row and step.

    >>> import torch, torchlosses as tl
    >>> tl.soft_top_k(torch.tensor([3.0, 1.0, 0.0]), 1)
    tensor([0.8722, 0.1111, 0.0166])
    """
    columns = scores.shape[-1]
    many = torch.as_tensor(k, dtype=scores.dtype, device=scores.device)
    if not alpha > 0:
        raise ValueError(f"alpha: expected a number > 0, got {alpha!r}")
    if scores.device.type == "cpu" and bool(((many <= 0) | (many >= columns)).any()):
        raise ValueError(f"k: expected numbers in (0, {columns}), the number of columns, got {k!r}")
    flat = scores.reshape(-1, columns)
    many = many.expand(scores.shape[:-1]).reshape(-1, 1)
    return _log_soft_top_k(flat, many, torch.ones_like(flat, dtype=torch.bool), alpha).exp().reshape(scores.shape)


class SoftTopK(SampledPositives, RowLoss):
    r"""Soft top-k loss: minus the mean log of the soft top-k membership of a row's right columns.

    Memberships ``q_j = sigmoid(alpha (s_j / temperature + t))`` of a row sum to k (:func:`soft_top_k`): it is enough that
    the right columns are among the k best, in any order.

    Arguments:
        k: how many columns may be on top, an integer >= 1, or None for the row's number of right columns.
        alpha: sharpness, > 0.
        temperature: divides the scores, > 0 (0.05 with cosines).
        sample: where a row has more right columns than k, k of them are drawn and the others left out, as in the paper;
            otherwise all of them are asked for.
        seed: of that draw's generator, whose state is in ``state_dict``.

    A row with as many columns as k, or fewer, has all of them on top.

    >>> import torch, torchlosses as tl
    >>> tl.SoftTopK(k=1, temperature=1.0)(torch.tensor([[3.0, 1.0, 0.0]]), tl.multi_label(torch.tensor([[1, 0, 0]])))
    tensor(0.1367)
    """

    card: ClassVar[Card] = Card(
        title="Dual-Encoders for Extreme Multi-Label Classification",
        year=2023,
        identifier="arXiv:2310.10636",
        family="imbalance",
        formula=r"-\frac1{|P|}\sum_{p\in P}\log\sigma(\alpha(s_p/\tau+t)),\quad \sum_j\sigma(\alpha(s_j/\tau+t))=k",
        purpose="Recall and precision at k among very many labels.",
        tasks=("retrieval", "classification"),
        scores="cosine",
        aliases=("soft top-k loss", "SoftTopKLoss", "DEXML top-k"),
        cost="O(BL) per Newton step, about 8 of them",
        note="The paper draws k of the right columns where a row has more (sample=True).",
    )
    copies = 16.0
    accepts = ("positive",)
    plain = "multi_label"

    k: int | None = integer(5, "how many columns may be on top", low=1, optional=True, search=(1, 100))
    alpha: float = real(2.0, "sharpness", above=0, search=(0.5, 8.0, "log"))
    temperature: float = real(0.05, "divides the scores", above=0, search=(0.02, 1.0, "log"))

    def prescale(self) -> float:
        return 1 / self.temperature

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        if self.k is not None and self.k >= recipe.columns_count:
            raise ValueError(f"k: expected less than the {recipe.columns_count} columns of the scores, got {self.k}")

    def rule(self, scores: Tensor, targets: Block, *, draw: Tensor | None = None, **fields: Tensor) -> Returned:
        if draw is not None and self.k is not None:
            targets = kept_positives(targets, draw, self.k)
        positive = targets.count(targets.positive)
        k = positive if self.k is None else torch.full_like(positive, float(self.k))
        log_q = _log_soft_top_k(scores, k[:, None], targets.valid, self.alpha)
        value = -targets.mean(log_q, targets.positive)
        return torch.where(targets.count() > k, value, 0.0), positive > 0


class TripletOHNM(RowLoss):
    r"""Triplets with online hard negatives (NGAME): the right column against the ``k`` highest wrong ones of the row.

    Mean over those of ``[s_n - s_p + margin]+``, weighted by a softmax of the scores of the violating ones.

    Arguments:
        margin: in the scores' units.
        k: how many of the highest wrong columns, >= 1; the mean is over k also where a row has fewer.
        positives: how many of the lowest right columns, >= 1 (3 in the extreme stage).
        weighted: weigh the k terms by ``softmax(s_n / tau [violating])``, through which the gradient flows too.
        tau: > 0.

    Known right columns that should be left out are masked: ``multi_label(hot, mask=...)``.

    >>> import torch, torchlosses as tl
    >>> tl.TripletOHNM(k=1, weighted=False)(torch.tensor([[0.5, 0.4, 0.1]]), torch.tensor([[1, 0, 0]]))
    tensor(0.2000)
    """

    card: ClassVar[Card] = Card(
        title="NGAME: Negative Mining-aware Mini-batching for Extreme Classification",
        year=2022,
        identifier="arXiv:2207.04452",
        family="imbalance",
        formula=r"\frac1k\sum_{n\in\mathrm{top}_k} w_n\,[s_n-s_p+m]_+",
        purpose="Extreme classification with mini-batches of similar examples.",
        tasks=("retrieval", "pairs"),
        scores="cosine",
        aliases=("NGAME", "TripletMarginLossOHNM", "online hard negative mining", "ClusterBatchSampler"),
        cost="O(BL)",
        detached="the choice of columns",
        equals=("TripletMargin(mining='hard', over='rows') at k=1, weighted=False",),
    )
    accepts = ("positive",)
    plain = "multi_label"

    margin: float = real(0.3, "by how much a right column must win", search=(0.05, 1.0, "log"))
    k: int = integer(10, "how many of the highest wrong columns", low=1, search=(1, 20))
    positives: int = integer(1, "how many of the lowest right columns", low=1)
    weighted: bool = flag(True, "weigh the terms by a softmax of violating scores", search=True)
    tau: float = real(0.1, "temperature of these weights", above=0)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        low, near = _first(scores, targets.positive, self.positives, largest=False)
        high, far = _first(scores, targets.negative, self.k, largest=True)
        cost = (high[:, None, :] - low[:, :, None] + self.margin).relu() * (near[:, :, None] & far[:, None, :])
        missing = self.k - cost.shape[-1]
        if self.weighted:  # absent columns stand in the softmax with a score of 0, as those that violate nothing
            logits = functional.pad(high[:, None, :] * (cost.detach() > 0) / self.tau, (0, missing))
            cost = cost * logits.softmax(-1)[..., : cost.shape[-1]]
        number = near.sum(-1)
        return cost.sum((1, 2)) / (self.k * number.clamp(min=1)), number


def _first(scores: Tensor, where: Tensor, k: int, *, largest: bool) -> tuple[Tensor, Tensor]:
    """The k largest or smallest of the chosen cells, ties to the lowest index, 0 and False where there are fewer."""
    worst = -torch.inf if largest else torch.inf
    order = scores.detach().masked_fill(~where, worst).argsort(dim=-1, descending=largest, stable=True)[:, :k]
    chosen = where.gather(1, order)
    return torch.where(chosen, scores.gather(1, order), 0.0), chosen


class CosineCells(CellLoss):
    """Base of losses that price cosines cell by cell; predicts the cosines themselves."""

    pos_weight: float = real(1.0, "factor of right cells", low=0, search=(0.5, 10.0, "log"))

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The scores themselves (..., L)."""
        return as_scores(scores).tensor()


class HingeContrastive(CosineCells):
    r"""Contrastive hinge of every cell: ``1 - s`` in right cells, ``[s - margin]+`` in wrong ones; cosines.

    Arguments:
        margin: above which a wrong column costs something.
        pos_weight: factor of right cells, >= 0.
        columns: 'mean' or 'sum' over the columns of a row.

    >>> import torch, torchlosses as tl
    >>> tl.HingeContrastive(margin=0.5)(torch.tensor([[0.75, 1.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.3750)
    """

    card: ClassVar[Card] = Card(
        title="NGAME: Negative Mining-aware Mini-batching for Extreme Classification",
        year=2022,
        identifier="arXiv:2207.04452",
        family="imbalance",
        formula=r"\tfrac1L\sum_j w\,y_j(1-s_j)+(1-y_j)[s_j-m]_+",
        purpose="Pairwise training of dual encoders on cosines.",
        tasks=("retrieval", "pairs"),
        scores="cosine",
        aliases=("HingeContrastiveLoss", "CosineEmbeddingLoss"),
    )

    margin: float = real(0.8, "above which a wrong column costs something", low=-1, high=1, search=(0.0, 0.9))

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return self.pos_weight * (1 - scores), (scores - self.margin).relu()


class ProbContrastive(CosineCells):
    r"""Contrastive likelihood of every cell, with ``P(right) = c e^{d (s - 1)}``, divided by d; cosines.

    Arguments:
        c: probability at a cosine of 1, in (0, 1).
        d: sharpness, > 0.
        threshold: wrong cells that cost less (after the division by d) cost nothing, >= 0.
        pos_weight: factor of right cells, >= 0.
        columns: 'mean' or 'sum' over the columns of a row.

    Above a score of 1 the cost of a wrong cell continues linearly.

    >>> import torch, torchlosses as tl
    >>> tl.ProbContrastive()(torch.tensor([[0.75, 1.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.4040)
    """

    card: ClassVar[Card] = Card(
        title="NGAME: Negative Mining-aware Mini-batching for Extreme Classification",
        year=2022,
        identifier="arXiv:2207.04452",
        family="imbalance",
        formula=r"\tfrac1{dL}\sum_j -y_j\log c\,e^{d(s_j-1)}-(1-y_j)\log(1-c\,e^{d(s_j-1)})",
        purpose="Pairwise training of dual encoders with calibrated cosines.",
        tasks=("retrieval", "pairs"),
        scores="cosine",
        aliases=("ProbContrastiveLoss",),
        note="Continued linearly above s = 1.",
    )

    c: float = real(0.75, "probability at a cosine of 1", above=0, below=1, search=(0.5, 0.95))
    d: float = real(3.0, "sharpness", above=0, search=(1.0, 10.0))
    threshold: float = real(0.05, "wrong cells that cost less cost nothing", low=0, search=(0.0, 0.2))

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        right = (self.d * (1 - scores) - math.log(self.c)) / self.d
        above = (scores - 1).relu() * self.c / (1 - self.c)
        wrong = -torch.log1p(-self.c * (self.d * (scores.clamp(max=1) - 1)).exp()) / self.d + above
        return self.pos_weight * right, torch.where(wrong.detach() < self.threshold, 0.0, wrong)


__all__ = ["DecoupledSoftmax", "HingeContrastive", "ProbContrastive", "SoftTopK", "TripletOHNM", "soft_top_k"]
