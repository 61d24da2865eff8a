"""Margins from how often a class occurs: LDAM."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.hyperparameters import data, real
from torchlosses.losses.classification.prior import checked_counts, known_counts
from torchlosses.losses.margin.softmax import MarginSoftmax
from torchlosses.scores import Scores
from torchlosses.targets import Targets


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

    def transform(self, cosine: Tensor, targets: Block, **fields: Any) -> Tensor:
        counts = self.class_counts.to(cosine.device, cosine.dtype)
        counts = torch.where(counts > 0, counts, 1.0)
        return cosine - self.max_margin * (counts.min() / counts[targets.index]) ** 0.25


__all__ = ["LDAM"]
