"""Wrong columns that weigh more as training goes on: CurricularFace."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.hyperparameters import real
from torchlosses.losses.margin.angular import ArcFace
from torchlosses.losses.margin.transforms import rotate


class CurricularFace(ArcFace):
    r"""CurricularFace: ArcFace whose hard wrong columns are rescaled, little at first and more as the model gets better.

    A wrong column is hard where ``cos_j > cos(theta_y + margin)``; it counts as ``cos_j (t + cos_j)``. The buffer
    ``t`` follows the mean right cosine of the batch; it moves before use, in training mode only.

    Arguments:
        margin, guard, scale: as :class:`ArcFace`.
        momentum: weight of the batch in t, in [0, 1].

    >>> import torch, torchlosses as tl
    >>> tl.CurricularFace(scale=10.0)(torch.tensor([[0.5, 0.4]]), torch.tensor([0]))
    tensor(1.6076)
    """

    card: ClassVar[Card] = Card(
        title="CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition",
        year=2020,
        identifier="arXiv:2004.00288",
        family="margin",
        formula=r"-\log\frac{e^{s\cos(\theta_y+m)}}{e^{s\cos(\theta_y+m)}+\sum_{j\ne y}e^{sN(t,\cos\theta_j)}},\quad"
        r"N=\cos\theta_j\text{ if }\cos(\theta_y+m)\ge\cos\theta_j\text{ else }\cos\theta_j(t+\cos\theta_j)",
        purpose="Face recognition that turns from easy to hard examples by itself.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("CurricularFaceLoss",),
        detached="t, and which columns are hard",
        note="Whether a column is hard is judged without the guard.",
    )

    momentum: float = real(0.01, "weight of the batch in t", low=0, high=1)

    t: Tensor

    def setup(self) -> None:
        self.register_buffer("t", torch.zeros(()))

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        if self.training:
            right = batch.right() / self.scale
            counted = batch.targets.counted & (right > -torch.inf)
            count = counted.sum()
            mean = torch.where(counted, right, 0.0).sum() / count.clamp(min=1)
            self.t.lerp_(mean.to(self.t.dtype), self.momentum * (count > 0).to(self.t.dtype))
        return {"easiness": self.t.clone()}

    def negatives(self, cosines: Tensor, right: Tensor, targets: Block, *, easiness: Tensor, **fields: Any) -> Tensor:
        hard = cosines > rotate(right.detach(), self.margin)[:, None]
        bounded = cosines.clamp(-1, 1)  # a square of what is no cosine would leave half precision
        return torch.where(hard, bounded * (easiness.to(cosines.dtype) + bounded), cosines)


__all__ = ["CurricularFace"]
