"""Constant margins on the angle, the cosine, or both: ArcFace, CosFace and their combination."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.hyperparameters import choice, real
from torchlosses.losses.margin.softmax import MarginSoftmax
from torchlosses.losses.margin.transforms import GUARDS, angle, guarded, rotate


class ArcFace(MarginSoftmax):
    r"""ArcFace: an angular margin, ``cos(theta_y + margin)`` on the right class.

    Arguments:
        margin: in radians, [0, pi].
        scale: factor on all cosines, > 0.
        guard: what happens where ``theta_y + margin`` passes pi: 'linear' (``cos theta - margin sin margin``, the usual
            one), 'none', 'clamp' (-1), or 'easy' (the margin applies only where ``cos theta > 0``).
        detach_margin: the gradient is that of the cosines without margin.

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

    def transform(self, cosine: Tensor, targets: Block, **fields: Any) -> Tensor:
        return guarded(cosine, self.margin, self.guard)


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

    def transform(self, cosine: Tensor, targets: Block, **fields: Any) -> Tensor:
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

    def transform(self, cosine: Tensor, targets: Block, **fields: Any) -> Tensor:
        if self.multiplier == 1:
            return rotate(cosine, self.angle) - self.margin
        return (self.multiplier * angle(cosine) + self.angle).cos() - self.margin


__all__ = ["ArcFace", "CombinedMargin", "CosFace"]
