"""Ratios of soft overlap counts: Dice, and the Jaccard and Tversky indices by its weights."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from torchlosses.card import Card
from torchlosses.hyperparameters import choice, flag, integer, real
from torchlosses.loss import SetLoss


class Dice(SetLoss):
    r"""One minus the overlap :math:`\frac{2TP+s}{2TP+2\alpha FP+2\beta FN+s'}` of soft masks.

    Arguments:
        over: what the counts are summed over before the ratio: 'image' (pixels; a ratio per image and class), 'batch'
            (pixels and images; per class) or 'all' (classes too; one ratio). The value is the mean of 1 - ratio
            over classes, then over images.
        activation: 'softmax' over the classes, 'sigmoid', or 'none' (probabilities come in).
        alpha, beta: weights of false positives and negatives, >= 0: 1/2 Dice, 1 Jaccard, else Tversky.
        smooth, smooth_denominator: s and s' >= 0 (None: s' = s); the denominator is at least 1e-7.
        counts: 'product' TP = sum p t; 'l1' TP = (|p|+|t|-|p-t|)/2, minimal at p = t for soft targets.
        squared: sums of squares in place of |p| and |t| ('product').
        background: whether class 0 counts. absent: classes without target are kept ('keep'), worth 0 ('zero') or left out of
            the mean ('drop').
        log: -log of the ratio in place of 1 - ratio. ignore_index: integer target of pixels that do not count.

    Call with scores (B, C, *) and targets (B, *) integer, or (B, C, *) masks.

    >>> import torch, torchlosses as tl
    >>> tl.Dice(activation="none")(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]]))
    tensor(0.3333)
    """

    card: ClassVar[Card] = Card(
        title="V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
        year=2016,
        identifier="arXiv:1606.04797",
        family="overlap",
        formula=r"1-\frac{2TP+s}{2TP+2\alpha FP+2\beta FN+s'}",
        purpose="Segment when the wanted regions are small: optimise overlap rather than pixels.",
        scores="none",
        aliases=("DiceLoss", "SoftDice", "JaccardLoss", "TverskyLoss", "IoULoss", "JML", "DML"),
        cost="O(N)",
        over="images of the mean over classes; see over",
        equals=("Jaccard: alpha=beta=1", "Tversky: any alpha, beta"),
    )

    over: str = choice("image", "what the counts are summed over", options=("image", "batch", "all"))
    activation: str = choice("softmax", "from scores to probabilities", options=("softmax", "sigmoid", "none"))
    alpha: float = real(0.5, "weight of false positives", low=0, search=(0.1, 1.0))
    beta: float = real(0.5, "weight of false negatives", low=0, search=(0.1, 1.0))
    smooth: float = real(1e-5, "added to the numerator", low=0)
    smooth_denominator: float | None = real(None, "added to the denominator", low=0, optional=True)
    counts: str = choice("product", "how overlap is counted", options=("product", "l1"))
    squared: bool = flag(False, "sums of squares in the denominator")
    background: bool = flag(True, "whether class 0 counts")
    absent: str = choice("keep", "classes without target", options=("keep", "zero", "drop"))
    log: bool = flag(False, "-log of the ratio")
    ignore_index: int | None = integer(None, "target of pixels that do not count", low=-(2**31), optional=True)

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The value on scores (B, C, *) and integer (B, *) or mask (B, C, *) targets."""
        probability, truth = self._prepared(scores, targets)
        if not self.background:
            probability, truth = probability[:, 1:], truth[:, 1:]
        first = {"image": 2, "batch": 2, "all": 1}[self.over]
        axes = [*([0] if self.over != "image" else []), *range(first, probability.dim())]
        own, known = probability, truth
        if self.squared:
            own, known = own.square(), known.square()
        own, known = own.sum(axes, keepdim=True), known.sum(axes, keepdim=True)
        if self.counts == "l1":
            hit = (own + known - (probability - truth).abs().sum(axes, keepdim=True)) / 2
        else:
            hit = (probability * truth).sum(axes, keepdim=True)
        lower = self.smooth if self.smooth_denominator is None else self.smooth_denominator
        bottom = 2 * hit + 2 * self.alpha * (own - hit) + 2 * self.beta * (known - hit) + lower
        ratio = (2 * hit + self.smooth) / bottom.clamp(min=1e-7)
        value = -ratio.clamp(min=1e-7).log() if self.log else 1 - ratio
        value, present = value.flatten(2).squeeze(-1), (known > 0).flatten(2).squeeze(-1)
        if self.absent == "keep":
            return value.sum() / max(value.numel(), 1)
        value = torch.where(present, value, 0.0)
        if self.absent == "zero":
            return value.sum() / max(value.numel(), 1)
        each = present.sum(1).to(value.dtype)
        value = value.sum(1) / each.clamp(min=1)
        return value.sum() / max(value.numel(), 1)

    def _prepared(self, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and masks (B, C, *) in at least float32, zero where ignored."""
        if not scores.dtype.is_floating_point or scores.dim() < 2:
            raise ValueError(f"scores: expected floating point (B, C, *), got {scores.dtype} {tuple(scores.shape)}")
        x = scores.to(torch.promote_types(scores.dtype, torch.float32))
        indices = targets.dim() == scores.dim() - 1
        wanted = (scores.shape[0], *scores.shape[2:]) if indices else tuple(scores.shape)
        if tuple(targets.shape) != wanted or (indices and targets.dtype.is_floating_point):
            raise ValueError(
                f"targets: expected integers ({scores.shape[0]}, *) or masks {tuple(scores.shape)}, got "
                f"{targets.dtype} {tuple(targets.shape)}"
            )
        keep = None
        if indices and self.ignore_index is not None:
            keep = targets != self.ignore_index
            targets = targets.masked_fill(~keep, 0)
        truth = one_hot(targets.long(), scores.shape[1]).movedim(-1, 1) if indices else targets
        probability = x.softmax(1) if self.activation == "softmax" else x
        if self.activation == "sigmoid":
            probability = x.sigmoid()
        truth = truth.to(x.dtype)
        if keep is not None:
            probability, truth = torch.where(keep[:, None], probability, 0.0), torch.where(keep[:, None], truth, 0.0)
        return probability, truth
