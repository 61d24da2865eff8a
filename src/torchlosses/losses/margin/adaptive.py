"""Scales and margins computed from the batch, without hyperparameters to tune: AdaCos, MadaCos."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.hyperparameters import choice, real
from torchlosses.losses.margin.softmax import Margins
from torchlosses.losses.margin.transforms import angle
from torchlosses.scores import Scores, as_scores


class BatchScaled(Margins):
    """Base of margins whose scale comes from the batch: the rule sees plain cosines, ``prepare`` returns the scale."""

    current_scale: Tensor

    def strength(self, *, batch_scale: Tensor, **fields: Any) -> Tensor:
        return batch_scale

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The softmax of the cosines (..., L) at the latest scale, no margin."""
        return as_scores(scores).times(self.current_scale).tensor().softmax(-1)


def lower_median(x: Tensor, where: Tensor) -> Tensor:
    """The lower median of the chosen entries of a vector; 0 where there are none."""
    if not x.numel():
        return x.sum()
    count = where.sum()
    place = ((count - 1) // 2).clamp(min=0)
    ordered = x.masked_fill(~where, torch.inf).sort().values
    return torch.where(count > 0, ordered.gather(0, place[None]).squeeze(0), 0.0)


class AdaCos(BatchScaled):
    r"""AdaCos: cross-entropy on cosines whose scale follows the batch; no margin, nothing to tune.

    ``s = log(B) / cos(min(theta, pi/4))``, B the batch's mean of ``sum_{j != y} exp(s_previous cos_j)`` and theta the
    lower median of the right angles. The buffer ``current_scale`` starts at ``sqrt(2) log(C - 1)`` and moves before use,
    in training mode only.

    Arguments:
        mode: 'dynamic', or 'fixed' at the starting scale.

    >>> import torch, torchlosses as tl
    >>> tl.AdaCos()(torch.tensor([[0.8, 0.1, 0.0], [0.1, 0.7, 0.2]]), torch.tensor([0, 1]))
    tensor(0.7195)
    """

    card: ClassVar[Card] = Card(
        title="AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning Deep Face Representations",
        year=2019,
        identifier="arXiv:1905.00292",
        family="margin",
        formula=r"-\log\frac{e^{s\cos\theta_y}}{\sum_j e^{s\cos\theta_j}},\quad"
        r"s=\frac{\log B}{\cos(\min(\pi/4,\theta_{\mathrm{med}}))}",
        purpose="A cosine softmax head without a scale to tune.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("AdaCosLoss",),
        detached="the scale",
        note="The scale is kept at 0.1 or more; with two classes the start is that of three.",
    )

    mode: str = choice("dynamic", "whether the scale follows the batch", options=("dynamic", "fixed"))

    def setup(self) -> None:
        self.register_buffer("current_scale", torch.zeros(()))  # 0: not started

    @torch.no_grad()
    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        start = math.sqrt(2) * math.log(max(batch.columns - 1, 2))
        scale = torch.where(self.current_scale > 0, self.current_scale, start)
        if self.training:
            if self.mode == "dynamic":
                scale = self._next(scale.to(batch.dtype), batch)
            self.current_scale.copy_(scale)
        return {"batch_scale": scale.to(batch.dtype)}

    @staticmethod
    def _next(scale: Tensor, batch: Batch) -> Tensor:
        targets, cosines = batch.targets, batch.scores()
        right = targets.target(cosines)
        counted = targets.counted & (right > -torch.inf)
        rest = targets.logsumexp(scale * cosines, targets.negative).masked_fill(~counted, -torch.inf)
        mean = rest.logsumexp(0) - counted.sum().to(rest.dtype).clamp(min=1).log()
        theta = lower_median(angle(right), counted).clamp(max=math.pi / 4)
        return torch.where(counted.any() & (mean > -torch.inf), (mean / theta.cos()).clamp(min=0.1), scale)

    def transform(self, cosine: Tensor, targets: Block, **fields: Any) -> Tensor:
        return cosine


class MadaCos(BatchScaled):
    r"""MadaCos: scale and additive margin such that the batch's median row is right with probability ``alpha``.

    With c the lower median of the right cosines, ``s = max(min_scale, log(odds (1 - alpha) / alpha) / (1 - c))`` and
    ``m = max(0, c - log(B alpha / (1 - alpha)) / s)``, B the median row's ``sum_{j != y} exp(s cos_j)``. The right
    column is ``s (cos_y - m)``; in evaluation mode m is 0.

    Arguments:
        alpha: the median row's probability, in (0, 1).
        odds: the factor of odds gained between c and 1 (the paper's rho), > 1.
        min_scale: least scale, > 0.
        rows: whose wrong columns make up B: 'median_row', or the 'mean' or 'median' of B over rows.

    ``current_scale`` and ``current_margin`` show the latest values.

    >>> import torch, torchlosses as tl
    >>> tl.MadaCos()(torch.tensor([[0.8, 0.1, 0.0]]), torch.tensor([0]))
    tensor(3.9120)
    """

    card: ClassVar[Card] = Card(
        title="Coarse-to-Fine: Learning Compact Discriminative Representation for Single-Stage Image Retrieval",
        year=2023,
        identifier="arXiv:2308.04008",
        family="margin",
        formula=r"-\log\frac{e^{s(\cos\theta_y-m)}}{e^{s(\cos\theta_y-m)}+\sum_{j\ne y}e^{s\cos\theta_j}}"
        r",\ s, m\text{ from the batch}",
        purpose="Image retrieval with a cosine head whose scale and margin tune themselves.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("CFCD", "MadaCosLoss", "MadaCos loss"),
        detached="scale and margin",
        note="1 - c counts as at least 0.001, so that the scale stays finite. The paper's second stage adds a triplet "
        "hinge on matched local descriptors.",
    )

    alpha: float = real(0.02, "the median row's probability", above=0, below=1, search=(0.01, 0.2, "log"))
    odds: float = real(9999999.0, "odds gained between the median cosine and 1", above=1)
    min_scale: float = real(32.0, "least scale", above=0)
    rows: str = choice("median_row", "whose wrong columns count", options=("median_row", "mean", "median"))

    current_margin: Tensor

    def setup(self) -> None:
        self.register_buffer("current_scale", torch.tensor(self.min_scale), persistent=False)
        self.register_buffer("current_margin", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        targets, cosines = batch.targets, batch.scores()
        right = targets.target(cosines)
        counted = targets.counted & (right > -torch.inf)
        median = lower_median(right, counted)
        against = math.log((1 - self.alpha) / self.alpha)
        scale = ((math.log(self.odds) + against) / (1 - median).clamp(min=1e-3)).clamp(min=self.min_scale)
        if not batch.rows or not self.training:
            return {"batch_scale": scale, "batch_margin": torch.zeros_like(scale)}
        rest = targets.logsumexp(scale * cosines, targets.negative)
        if self.rows == "median_row":
            row = ((right == median) & counted).to(torch.uint8).argmax(0, keepdim=True)
            level = rest.gather(0, row).squeeze(0)
        elif self.rows == "mean":
            level = rest.masked_fill(~counted, -torch.inf).logsumexp(0) - counted.sum().to(rest.dtype).clamp(min=1).log()
        else:
            level = lower_median(rest, counted)
        margin = (median - (level - against) / scale).clamp(min=0)
        margin = torch.where(torch.isfinite(margin), margin, 0.0)  # no wrong column: nothing to keep apart from
        self.current_scale.copy_(scale)
        self.current_margin.copy_(margin)
        return {"batch_scale": scale, "batch_margin": margin}

    def transform(self, cosine: Tensor, targets: Block, *, batch_margin: Tensor, **fields: Any) -> Tensor:
        return cosine - batch_margin.to(cosine.dtype)


__all__ = ["AdaCos", "MadaCos"]
