"""Margins from the norm of the embedding, read as the quality of the example: AdaFace, MagFace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.hyperparameters import choice, real
from torchlosses.losses.margin.softmax import MarginSoftmax
from torchlosses.losses.margin.transforms import GUARDS, guarded


class AdaFace(MarginSoftmax):
    r"""AdaFace: the margin follows the quality of the image, read from the norm of its embedding.

    With ``q = clip(concentration (norm - mean) / (std + eps), -1, 1)`` of running batch statistics, the right column is
    ``cos(theta_y - margin q) - margin (1 + q)``; no gradient reaches the norms through it.

    Arguments:
        margin: >= 0.
        concentration: how fast quality saturates (the paper's h), > 0.
        momentum: weight of the batch in the running mean and standard deviation of norms, in (0, 1].
        eps: added to that deviation, and how far cosines stay from +-1 and angles from 0 and pi, in (0, 1).
        scale: factor on all cosines, > 0.

    Norms are those of the row operand of the recipe (give raw embeddings to ``cosine(x, W)``), or
    ``targets.given(query_norm=...)``. Buffers ``norm_mean`` and ``norm_std`` move in training mode only; a batch of one row
    leaves them, and ignored rows do not enter. All cosines are clamped to +-(1 - eps).

    >>> import torch, torchlosses as tl
    >>> x, w = torch.tensor([[10.0, 0.0], [0.0, 30.0]]), torch.eye(2)
    >>> tl.AdaFace(scale=4.0)(tl.cosine(x, w), torch.tensor([0, 1]))
    tensor(0.0934)
    """

    card: ClassVar[Card] = Card(
        title="AdaFace: Quality Adaptive Margin for Face Recognition",
        year=2022,
        identifier="arXiv:2204.00964",
        family="margin",
        formula=r"-\log\frac{e^{s(\cos(\theta_y-mq)-m-mq)}}{e^{s(\cos(\theta_y-mq)-m-mq)}+\sum_{j\ne y}e^{s\cos\theta_j}}",
        purpose="Face recognition on images of mixed quality.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("AdaFaceLoss",),
        detached="the quality q",
        note="momentum=1 is the released code's t_alpha; the paper's text favours a slow average (0.01).",
    )

    margin: float = real(0.4, "margin", low=0, search=(0.3, 0.5))
    concentration: float = real(0.333, "how fast quality saturates", above=0, search=(0.2, 0.66))
    momentum: float = real(1.0, "weight of the batch in the running statistics", above=0, high=1)
    eps: float = real(1e-3, "distance of cosines from +-1", above=0, below=1)

    norm_mean: Tensor
    norm_std: Tensor

    def setup(self) -> None:
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_std", torch.tensor(100.0))

    @torch.no_grad()
    def _advance(self, norm: Tensor, counted: Tensor) -> None:
        """Moves the running statistics towards this batch's; fewer than two counted rows leave them."""
        count = counted.sum()
        mean = torch.where(counted, norm, 0.0).sum() / count.clamp(min=1)
        squares = torch.where(counted, (norm - mean).square(), 0.0).sum()
        std = (squares / (count - 1).clamp(min=1)).sqrt()
        for running, now in ((self.norm_mean, mean), (self.norm_std, std)):
            running.lerp_(now.to(running.dtype), self.momentum * (count > 1).to(running.dtype))

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        norm = fields["query_norm"].detach().clamp(0.001, 100)
        if self.training:
            self._advance(norm, batch.targets.counted)
        quality = self.concentration * (norm - self.norm_mean) / (self.norm_std + self.eps)
        return {"quality": quality.clamp(-1, 1)}

    def transform(self, cosine: Tensor, targets: Block, *, quality: Tensor, query_norm: Tensor, **fields: Any) -> Tensor:
        shift = self.margin * quality.to(cosine.dtype)
        theta = self.clamped(cosine).acos()
        return (theta - shift).clamp(self.eps, math.pi - self.eps).cos() - self.margin - shift

    def negatives(self, cosines: Tensor, right: Tensor, targets: Block, **fields: Any) -> Tensor:
        return self.clamped(cosines)

    def clamped(self, cosine: Tensor) -> Tensor:
        return cosine.clamp(self.eps - 1, 1 - self.eps)


class MagFace(MarginSoftmax):
    r"""MagFace: the angular margin grows with the norm of the embedding, and a regularizer makes norms grow.

    With ``a = clip(|x|, low_norm, high_norm)`` the right column is ``cos(theta_y + m(a))``, where m goes linearly from
    ``low_margin`` to ``high_margin``; the row adds ``norm_weight (a / high_norm^2 + 1 / a)``. Gradients reach the norm
    through both. ``terms()`` shows them as 'entropy' and 'norm'.

    Arguments:
        low_norm, high_norm: the range of norms, > 0.
        low_margin, high_margin: the margins in radians at its ends, [0, pi].
        norm_weight: of the regularizer, >= 0.
        scale: factor on all cosines, > 0.
        guard: as :class:`ArcFace`; 'easy' applies the margin only where ``cos theta > 0``.

    Norms are those of the row operand of the recipe (give raw embeddings to ``cosine(x, W)``), or
    ``targets.given(query_norm=...)``.

    >>> import torch, torchlosses as tl
    >>> x, w = torch.tensor([[10.0, 0.0], [0.0, 30.0]]), torch.eye(2)
    >>> tl.MagFace(scale=4.0)(tl.cosine(x, w), torch.tensor([0, 1]))
    tensor(2.4199)
    """

    card: ClassVar[Card] = Card(
        title="MagFace: A Universal Representation for Face Recognition and Quality Assessment",
        year=2021,
        identifier="arXiv:2103.06627",
        family="margin",
        formula=r"-\log\frac{e^{s\cos(\theta_y+m(a))}}{e^{s\cos(\theta_y+m(a))}+\sum_{j\ne y}e^{s\cos\theta_j}}"
        r"+\lambda\left(\frac{a}{u_a^2}+\frac1a\right)",
        purpose="Face recognition whose embedding norm tells the quality of the image.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("MagFaceLoss",),
    )

    low_norm: float = real(10.0, "smallest norm told apart", above=0)
    high_norm: float = real(110.0, "largest norm told apart", above=0)
    low_margin: float = real(0.45, "margin of the smallest norm", low=0, high=math.pi, search=(0.2, 0.6))
    high_margin: float = real(0.8, "margin of the largest norm", low=0, high=math.pi, search=(0.5, 1.0))
    norm_weight: float = real(35.0, "weight of the regularizer", low=0, search=(1.0, 50.0, "log"))
    guard: str = choice("easy", "what happens at large angles", options=GUARDS)

    def setup(self) -> None:
        if self.low_norm >= self.high_norm:
            raise ValueError(f"high_norm: expected a number > low_norm ({self.low_norm:g}), got {self.high_norm!r}")

    def norm(self, query_norm: Tensor) -> Tensor:
        """The norm within its range."""
        return query_norm.clamp(self.low_norm, self.high_norm)

    def transform(self, cosine: Tensor, targets: Block, *, query_norm: Tensor, **fields: Any) -> Tensor:
        share = (self.norm(query_norm.to(cosine.dtype)) - self.low_norm) / (self.high_norm - self.low_norm)
        return guarded(cosine, self.low_margin + (self.high_margin - self.low_margin) * share, self.guard)

    def row(self, right: Tensor, rest: Tensor, **fields: Tensor) -> Mapping[str, Tensor]:
        norm = self.norm(fields["query_norm"].to(right.dtype))
        entropy = super().row(right, rest)
        assert isinstance(entropy, Tensor)
        return {"entropy": entropy, "norm": self.norm_weight * (norm / self.high_norm**2 + 1 / norm)}


__all__ = ["AdaFace", "MagFace"]
