"""Margin softmax: cross-entropy on scaled cosines whose right column is made harder."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome, Returned, Summary
from torchlosses.hyperparameters import choice, data, flag, real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.prior import checked_counts, known_counts
from torchlosses.scores import Scores
from torchlosses.targets import Targets

GUARDS = ("linear", "none", "clamp", "easy")


class MarginSoftmax(RowLoss):
    r"""Base of margin softmax losses: cross-entropy on ``scale * cos`` with the right column's cosine transformed.

    Define :meth:`transform`; the loss then streams on ``cosine(x, W)`` like cross-entropy. Feed it ``cosine(x, W)`` or
    plain cosines; :meth:`predict` is the softmax without margin.

    Arguments:
        scale: factor on all cosines, > 0.

    >>> import torch, torchlosses as tl
    >>> class Squared(tl.MarginSoftmax):
    ...     def transform(self, cosine, targets):
    ...         return cosine * cosine.abs()
    >>> Squared(scale=10.0)(torch.tensor([[0.5, 0.0]]), torch.tensor([0]))
    tensor(0.0789)
    """

    accepts = ("index",)
    summary = ("target", "rest")

    scale: float = real(64.0, "factor on all cosines", above=0, search=(8.0, 64.0, "log"))

    def transform(self, cosine: Tensor, targets: Block) -> Tensor:
        """The right column's cosine (b,) with its margin."""
        raise NotImplementedError

    def prescale(self) -> float:
        return self.scale

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        return self.entropy(row, self.transform(row.target / self.scale, targets))

    def entropy(self, row: Summary, cosine: Tensor) -> Tensor:
        """Cross-entropy with this cosine in the right column."""
        return -functional.logsigmoid(self.scale * cosine - row.rest)


def rotate(cosine: Tensor, angle: Tensor | float) -> Tensor:
    """``cos(arccos(cosine) + angle)``; where the sine vanishes its gradient is 0 instead of infinite."""
    angle = torch.as_tensor(angle, dtype=cosine.dtype, device=cosine.device)
    square = (1 - cosine) * (1 + cosine)
    # below the rounding of the cosine itself the sine is noise
    sine = square.clamp(min=torch.finfo(cosine.dtype).eps ** 2).sqrt()
    return cosine.clamp(-1, 1) * angle.cos() - sine * angle.sin()


def guarded(cosine: Tensor, margin: float, guard: str) -> Tensor:
    """The rotated cosine, kept decreasing in the angle beyond ``pi - margin`` as the guard says."""
    moved = rotate(cosine, margin)
    if guard == "none":
        return moved
    if guard == "easy":
        return torch.where(cosine > 0, moved, cosine)
    beyond = cosine <= math.cos(math.pi - margin)
    if guard == "clamp":
        return torch.where(beyond, -1.0, moved)
    return torch.where(beyond, cosine - margin * math.sin(margin), moved)


class ArcFace(MarginSoftmax):
    r"""ArcFace: an angular margin, ``cos(theta_y + margin)`` on the right class.

    Arguments:
        margin: in radians, [0, pi].
        scale: factor on all cosines, > 0.
        guard: what happens where ``theta_y + margin`` passes pi: 'linear' (``cos theta - margin sin margin``, the usual
            one), 'none', 'clamp' (-1), or 'easy' (the margin applies only where ``cos theta > 0``).
        detach_margin: the gradient is that of the cosine without margin.

    At ``|cos| = 1`` the gradient is finite.

    >>> import torch, torchlosses as tl
    >>> tl.ArcFace(margin=0.5, scale=10.0)(torch.tensor([[0.8, 0.1]]), torch.tensor([0]))
    tensor(0.0422)
    """

    card: ClassVar[Card] = Card(
        title="ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
        year=2019,
        identifier="arXiv:1801.07698",
        family="margin",
        formula=r"-\log\frac{e^{s\cos(\theta_y+m)}}{e^{s\cos(\theta_y+m)}+\sum_{j\ne y}e^{s\cos\theta_j}}",
        purpose="Embeddings that separate many classes on the sphere: face recognition, retrieval with class labels.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("ArcFaceLoss", "InsightFace", "additive angular margin"),
        equals=("CrossEntropy on scaled cosines at margin=0", "CombinedMargin(1, margin, 0) with guard='none'"),
        note="pytorch-metric-learning gives the margin in degrees (28.6) and uses guard='linear'.",
    )

    margin: float = real(0.5, "angle in radians", low=0, high=math.pi, search=(0.1, 0.7))
    guard: str = choice("linear", "what happens beyond pi - margin", options=GUARDS)
    detach_margin: bool = flag(False, "the gradient of the cosine without margin")

    def transform(self, cosine: Tensor, targets: Block) -> Tensor:
        moved = guarded(cosine, self.margin, self.guard)
        return cosine + (moved - cosine).detach() if self.detach_margin else moved


class CosFace(MarginSoftmax):
    r"""CosFace: an additive margin, ``cos theta_y - margin`` on the right class.

    Arguments:
        margin: in [0, 2].
        scale: factor on all cosines, > 0.

    >>> import torch, torchlosses as tl
    >>> tl.CosFace(margin=0.35, scale=10.0)(torch.tensor([[0.8, 0.1]]), torch.tensor([0]))
    tensor(0.0298)
    """

    card: ClassVar[Card] = Card(
        title="CosFace: Large Margin Cosine Loss for Deep Face Recognition",
        year=2018,
        identifier="arXiv:1801.09414",
        family="margin",
        formula=r"-\log\frac{e^{s(\cos\theta_y-m)}}{e^{s(\cos\theta_y-m)}+\sum_{j\ne y}e^{s\cos\theta_j}}",
        purpose="Embeddings that separate many classes on the sphere, with the simplest margin.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("CosFaceLoss", "AM-Softmax", "additive margin softmax", "LMCL", "large margin cosine loss"),
        equals=("CrossEntropy on scaled cosines at margin=0", "CombinedMargin(1, 0, margin)"),
    )

    margin: float = real(0.35, "margin on the cosine", low=0, high=2, search=(0.05, 0.5))

    def transform(self, cosine: Tensor, targets: Block) -> Tensor:
        return cosine - self.margin


class CombinedMargin(MarginSoftmax):
    r"""Combined margin: ``cos(multiplier * theta_y + angle) - margin`` on the right class, without a guard.

    Arguments:
        multiplier: factor on the angle, > 0 (SphereFace's m1).
        angle: added to the angle in radians (ArcFace's m2), >= 0.
        margin: taken from the cosine (CosFace's m3), >= 0.
        scale: factor on all cosines, > 0.

    >>> import torch, torchlosses as tl
    >>> tl.CombinedMargin(scale=10.0)(torch.tensor([[0.8, 0.1]]), torch.tensor([0]))
    tensor(0.0552)
    """

    card: ClassVar[Card] = Card(
        title="ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
        year=2019,
        identifier="arXiv:1801.07698",
        family="margin",
        formula=r"\log\left(1+\sum_{j\ne y}e^{s\cos\theta_j - s(\cos(m_1\theta_y+m_2)-m_3)}\right)",
        purpose="The three classical margins at once.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("CombinedMarginLoss", "CombinedMarginSoftmax", "CM"),
        equals=("ArcFace(guard='none') at (1, m, 0)", "CosFace at (1, 0, m)"),
    )

    multiplier: float = real(1.0, "factor on the angle", above=0)
    angle: float = real(0.3, "added to the angle", low=0, search=(0.0, 0.5))
    margin: float = real(0.2, "taken from the cosine", low=0, search=(0.0, 0.4))

    def transform(self, cosine: Tensor, targets: Block) -> Tensor:
        if self.multiplier == 1:
            return rotate(cosine, self.angle) - self.margin
        edge = 1 - torch.finfo(cosine.dtype).eps
        theta = cosine.clamp(-edge, edge).acos()
        return (self.multiplier * theta + self.angle).cos() - self.margin


class LDAM(MarginSoftmax):
    r"""LDAM: a margin that grows as the class gets rarer, ``m_j = max_margin (n_min / n_j)^(1/4)``.

    Arguments:
        class_counts: (C,) training examples of each class, >= 0; a class without any counts as one example.
        max_margin: the rarest class's margin, >= 0.
        scale: factor on all cosines, > 0.

    Deferred re-weighting is ``classes(index, weight=w)`` from some epoch on.

    >>> import torch, torchlosses as tl
    >>> tl.LDAM(class_counts=torch.tensor([90, 10]), scale=10.0)(torch.tensor([[0.1, 0.8]]), torch.tensor([1]))
    tensor(0.1269)
    """

    card: ClassVar[Card] = Card(
        title="Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        year=2019,
        identifier="arXiv:1906.07413",
        family="margin",
        formula=r"-\log\frac{e^{s(z_y-m_y)}}{e^{s(z_y-m_y)}+\sum_{j\ne y}e^{s z_j}},\quad m_j\propto n_j^{-1/4}",
        purpose="Long-tailed classification with a cosine head.",
        tasks=("classification",),
        scores="cosine",
        aliases=("LDAMLoss", "LDAM-DRW"),
    )

    class_counts: Tensor = data("training examples of each class, (C,)")
    max_margin: float = real(0.5, "the rarest class's margin", low=0, search=(0.1, 0.8))
    scale = 30.0

    def setup(self) -> None:
        self.class_counts = checked_counts(self.class_counts)

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        known_counts(self.class_counts, recipe)

    def transform(self, cosine: Tensor, targets: Block) -> Tensor:
        counts = self.class_counts.to(cosine.device, cosine.dtype)
        counts = torch.where(counts > 0, counts, 1.0)
        return cosine - self.max_margin * (counts.min() / counts[targets.index]) ** 0.25


class AdaFace(MarginSoftmax):
    r"""AdaFace: the margin follows the quality of the image, read from the norm of its embedding.

    With ``q = clip(concentration (norm - mean) / (std + 0.001), -1, 1)`` of running batch statistics, the right column is
    ``cos(theta_y - margin q) - margin (1 + q)``; no gradient reaches the norms through it.

    Arguments:
        margin: >= 0.
        concentration: how fast quality saturates (the paper's h), > 0.
        momentum: weight of the batch in the running mean and standard deviation of norms, in (0, 1].
        scale: factor on all cosines, > 0.

    Norms are those of the row operand of the recipe (give raw embeddings to ``cosine(x, W)``), or
    ``targets.given(query_norm=...)``. Buffers ``norm_mean`` and ``norm_std`` move in training mode only; a batch of one row
    leaves them. All cosines are clamped to +-0.999.

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
        note="Ignored rows are part of the batch statistics. momentum=1 is the released code's t_alpha.",
    )

    margin: float = real(0.4, "margin", low=0, search=(0.3, 0.5))
    concentration: float = real(0.333, "how fast quality saturates", above=0, search=(0.2, 0.66))
    momentum: float = real(1.0, "weight of the batch in the running statistics", above=0, high=1)

    norm_mean: Tensor
    norm_std: Tensor

    def setup(self) -> None:
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_std", torch.tensor(100.0))

    def streams(self, targets: Targets) -> tuple[str, ...]:
        return ()  # every cosine is clamped

    @torch.no_grad()
    def _statistics(self, norm: Tensor) -> tuple[Tensor, Tensor]:
        """Running mean and standard deviation after this batch."""
        mean, std = self.norm_mean, self.norm_std
        if not self.training or norm.numel() < 2:
            return mean, std
        norm = norm.to(mean.dtype)
        t = self.momentum
        return t * norm.mean() + (1 - t) * mean, t * norm.std() + (1 - t) * std

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        norm = fields["query_norm"].detach().clamp(0.001, 100)
        mean, std = self._statistics(norm)
        quality = (self.concentration * (norm - mean) / (std + 1e-3)).clamp(-1, 1)
        return {"quality": quality, "norm": norm}

    def rule(
        self, scores: Tensor, targets: Block, *, quality: Tensor, norm: Tensor, query_norm: Tensor, **fields: Tensor
    ) -> Returned:
        scores = scores.clamp(-self.scale * 0.999, self.scale * 0.999)
        row = Summary(scores, targets)
        shift = self.margin * quality.to(scores.dtype)
        theta = (row.target / self.scale).acos()
        cosine = (theta - shift).clamp(1e-3, math.pi - 1e-3).cos() - self.margin - shift
        return Outcome({"loss": (self.entropy(row, cosine), None)}, {"norm": norm})

    def commit(self, updates: dict[str, Tensor], fields: dict[str, Tensor]) -> None:
        mean, std = self._statistics(updates["norm"])
        self.norm_mean.copy_(mean)
        self.norm_std.copy_(std)
