"""Ratios of soft overlap counts: Dice, and the Jaccard and Tversky indices by its weights."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.hyperparameters import choice, flag, integer, real
from torchlosses.losses.overlap.confusion import power, soft_confusion, tversky
from torchlosses.losses.overlap.masks import Masks, Overlap


class Dice(Overlap):
    r"""One minus the overlap :math:`\frac{2TP+s}{2TP+2\alpha FP+2\beta FN+s'}` of soft masks.

    Arguments:
        over: what the counts are summed over before the ratio: 'image' (pixels; a ratio per image and class; mean over
            classes, then images), 'class' (the same; mean over a class's images first), 'batch' (pixels and images; per
            class) or 'all' (classes too; one ratio).
        activation: 'softmax' over the classes, 'sigmoid', or 'none' (probabilities come in).
        alpha, beta: weights of false positives and negatives, >= 0: 1/2 Dice, 1 Jaccard, else Tversky.
        smooth, smooth_denominator: s and s' >= 0 (None: s' = s); the denominator is at least 1e-7.
        counts: 'product' TP = sum p t; 'l1' TP = (|p|+|t|-|p-t|)/2, minimal at p = t for soft targets.
        norm: n >= 1, sizes are sums of n-th powers; 2 is the V-Net form with squares in the denominator.
        focus: probabilities become (1-p)^focus p, which plays down easy cells (self-adjusting Dice); >= 0.
        gamma: power of 1 - ratio (or of -log), > 0; gamma_of: of every 'ratio' or of their 'mean'.
        background: whether class 0 counts. absent: classes without target are kept ('keep'), worth 0 ('zero') or left out of
            the mean ('drop'). presence: a class is there when its largest target exceeds this.
        log: -log of the ratio in place of 1 - ratio. ignore_index: integer target of pixels that do not count.

    Call with scores (B, C, *) and targets (B, *) integer, or (B, C, *) masks; ``mask`` (B, *) False: does not count.

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
        aliases=(
            "DiceLoss",
            "SoftDice",
            "JaccardLoss",
            "TverskyLoss",
            "IoULoss",
            "SoftJaccard",
            "FocalTversky",
            "Tversky",
            "Jaccard",
            "IoU",
        ),
        cost="O(N)",
        over="images of the mean over classes; see over",
        equals=(
            "Jaccard: alpha=beta=1",
            "Tversky: any alpha, beta",
            "focal Tversky (arXiv:1810.07842): alpha=0.3, beta=0.7, gamma=0.75",
            "self-adjusting Dice of a set: focus > 0, over='all', activation='sigmoid', smooth=1, norm=2",
        ),
        note="powers gamma < 1 continue linearly where 1 - ratio is below eps^2",
    )

    alpha: float = real(0.5, "weight of false positives", low=0, search=(0.1, 1.0))
    beta: float = real(0.5, "weight of false negatives", low=0, search=(0.1, 1.0))
    smooth: float = real(1e-5, "added to the numerator", low=0)
    smooth_denominator: float | None = real(None, "added to the denominator", low=0, optional=True)
    counts: str = choice("product", "how overlap is counted", options=("product", "l1"))
    norm: int = integer(1, "power that is summed", low=1)
    focus: float = real(0.0, "power of 1 - p that plays down easy cells", low=0)
    gamma: float = real(1.0, "power of 1 - ratio", above=0)
    gamma_of: str = choice("ratio", "what gamma is a power of", options=("ratio", "mean"))
    background: bool = flag(True, "whether class 0 counts")
    presence: float = real(0.0, "largest target above which a class is there", low=0)
    log: bool = flag(False, "-log of the ratio")

    def value(self, masks: Masks) -> Tensor:
        probability = masks.soft.value
        if self.focus:
            probability = probability * (self.focus * masks.soft.log_complement).exp()
        probability, truth, axes = masks.only(probability), masks.truth, self.axes()
        if not self.background:
            probability, truth = probability[:, 1:], truth[:, 1:]
        c = soft_confusion(probability, truth, axes, self.counts, self.norm)
        ratio = tversky(c, self.alpha, self.beta, self.smooth, self.smooth_denominator)
        value = -ratio.clamp(min=1e-7).log() if self.log else 1 - ratio
        present = (truth > self.presence).sum(axes, keepdim=True) > 0
        if self.gamma_of == "ratio":
            value = power(value, self.gamma)
        mean = self.averaged(value.squeeze(2), present.squeeze(2))
        return power(mean, self.gamma) if self.gamma_of == "mean" else mean


class JaccardMetric(Overlap):
    r"""Jaccard metric loss (and the Dice semimetric): soft Jaccard whose minimum is p = t for soft targets too.

    .. math:: 1-\frac{TP+s}{TP+\alpha FP+\beta FN+s},\quad TP=(|p|_n^n+|t|_n^n-|p-t|_n^n)/2

    Arguments:
        alpha, beta: 1 Jaccard (JML), 1/2 Dice (DML), >= 0.
        dataset, image, per_class: weights of the value with counts over the batch (mIoUD), per image (mIoUI), and per image
            with the mean over a class's images first (mIoUC); >= 0.
        smooth: s >= 0. norm: n >= 1. gamma: power of each class's value, > 0. log: -log of the ratio.
        absent: classes without target: 'auto' drops them for integer targets, keeps them for masks; 'keep', 'zero', 'drop'.
        presence: with 'drop', a class is there when its largest target exceeds this.

    >>> import torch, torchlosses as tl
    >>> soft = torch.tensor([[[0.7], [0.3]]])
    >>> tl.JaccardMetric()(soft.log(), soft).abs() < 1e-6
    tensor(True)
    """

    card: ClassVar[Card] = Card(
        title="Jaccard Metric Losses: Optimizing the Jaccard Index with Soft Labels",
        year=2023,
        identifier="arXiv:2302.05666",
        family="overlap",
        formula=r"1-\frac{TP+s}{TP+\alpha FP+\beta FN+s},\ TP=(|p|+|t|-|p-t|)/2",
        purpose="Optimise the Jaccard index with smoothed or distilled labels.",
        scores="none",
        aliases=(
            "JML",
            "DML",
            "JDTLoss",
            "mIoUD",
            "mIoUI",
            "mIoUC",
            "Dice semimetric loss (arXiv:2303.16296)",
            "DiceSemimetric",
            "Jaccard metric loss",
        ),
        cost="O(N)",
        over="classes, images, as the weights say",
        equals=("Dice(counts='l1', alpha=1, beta=1, smooth=2s): one of the three weights alone",),
    )

    alpha: float = real(1.0, "weight of false positives", low=0, search=(0.3, 1.0))
    beta: float = real(1.0, "weight of false negatives", low=0, search=(0.3, 1.0))
    dataset: float = real(1.0, "weight of counts over the batch", low=0)
    image: float = real(0.0, "weight of counts per image", low=0)
    per_class: float = real(0.0, "weight of counts per image, classes averaged last", low=0)
    smooth: float = real(1e-3, "added to numerator and denominator", low=0)
    norm: int = integer(1, "power that is summed", low=1)
    gamma: float = real(1.0, "power of a class's value", above=0)
    log: bool = flag(False, "-log of the ratio")
    absent: str = choice("auto", "classes without target", options=("auto", "keep", "zero", "drop"))
    presence: float = real(0.0, "largest target above which a class is there", low=0)

    def forward(self, scores: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
        """The value on scores (B, C, *) and integer (B, *) or mask (B, C, *) targets."""
        masks = self.masks(scores, targets, mask)
        automatic = "drop" if targets.dim() < scores.dim() else "keep"
        total = masks.truth.new_zeros(())
        for over, weight in (("batch", self.dataset), ("image", self.image), ("class", self.per_class)):
            if weight:
                part = Dice(
                    over=over,
                    alpha=self.alpha,
                    beta=self.beta,
                    smooth=2 * self.smooth,
                    counts="l1",
                    norm=self.norm,
                    gamma=self.gamma,
                    absent=automatic if self.absent == "auto" else self.absent,
                    presence=self.presence,
                    log=self.log,
                )
                total = total + weight * part.value(masks)
        return total


class GeneralizedDice(Overlap):
    r"""Dice whose classes are pooled by the inverse of their volume.

    .. math:: 1-\frac{2\sum_c w_cTP_c+s}{\sum_c w_c(|p_c|+|t_c|)+s'}

    Arguments:
        weight: w_c of the target volume v_c: 'square' 1/v_c^2, 'simple' 1/v_c, 'uniform' 1. A class without target has the
            largest weight of the others.
        over: 'image' (one ratio per image) or 'batch' (one).
        smooth, smooth_denominator: s and s' >= 0 (None: s' = s). background: whether class 0 counts.

    >>> import torch, torchlosses as tl
    >>> p = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> tl.GeneralizedDice(activation="none")(p, torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]))
    tensor(0.5000)
    """

    card: ClassVar[Card] = Card(
        title="Generalised Dice overlap as a deep learning loss function for highly unbalanced segmentations",
        year=2017,
        identifier="arXiv:1707.03237",
        family="overlap",
        formula=r"1-\frac{2\sum_c w_cTP_c+s}{\sum_c w_c(|p_c|+|t_c|)+s'},\ w_c=1/v_c^2",
        purpose="Segment classes of very different volumes with one ratio.",
        scores="none",
        aliases=("GeneralizedDiceLoss", "GDL"),
        cost="O(N)",
        over="images",
        detached="nothing; the weights depend on targets alone",
    )

    over: str = choice("image", "what the counts are summed over", options=("image", "batch"))
    weight: str = choice("square", "power of the inverse volume", options=("square", "simple", "uniform"))
    smooth: float = real(1e-5, "added to the numerator", low=0)
    smooth_denominator: float | None = real(None, "added to the denominator", low=0, optional=True)
    background: bool = flag(True, "whether class 0 counts")
    absent: str = choice("keep", "classes without target", options=("keep",))

    def value(self, masks: Masks) -> Tensor:
        probability, truth = masks.only(masks.soft.value), masks.truth
        if not self.background:
            probability, truth = probability[:, 1:], truth[:, 1:]
        c = soft_confusion(probability, truth, self.axes())
        volume = c.positives
        some = volume > 0
        inverse = 1 / torch.where(some, volume, 1.0) ** {"square": 2, "simple": 1, "uniform": 0}[self.weight]
        largest = torch.where(some, inverse, 0.0).amax(1, keepdim=True) if volume.shape[1] else inverse
        weight = torch.where(some, inverse, largest)
        top, bottom = (weight * 2 * c.tp).sum(1), (weight * (2 * c.tp + c.fp + c.fn)).sum(1)
        lower = self.smooth if self.smooth_denominator is None else self.smooth_denominator
        ratio = (top + self.smooth) / (bottom + lower).clamp(min=1e-7)
        return (1 - ratio).sum() / max(ratio.numel(), 1)
