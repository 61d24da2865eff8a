"""The Lovasz extension of the Jaccard loss: exact, piecewise linear, by sorting."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.hyperparameters import choice
from torchlosses.losses.overlap.masks import Masks, Overlap


def lovasz_extension(errors: Tensor, truth: Tensor, counted: Tensor | None) -> Tensor:
    """Sum of errors (..., P), largest first, times the steps of 1 - IoU when their cells turn wrong one by one.

    Equal errors are taken in the order of the cells. Cells that do not count come last, with step 0.
    """
    if counted is not None:
        truth = torch.where(counted, truth, 0.0)
        errors = torch.where(counted, errors, 0.0)
    shown = errors.detach() if counted is None else errors.detach().masked_fill(~counted, -torch.inf)
    order = shown.argsort(dim=-1, descending=True, stable=True)
    known = truth.gather(-1, order)
    others = 1 - known if counted is None else counted.expand_as(truth).to(truth.dtype).gather(-1, order) - known
    total = known.sum(-1, keepdim=True)
    union = total + others.cumsum(-1)
    jaccard = 1 - (total - known.cumsum(-1)) / union.clamp(min=1)
    jaccard = torch.where(union > 0, jaccard, 0.0)
    steps = torch.diff(jaccard, prepend=torch.zeros_like(total))
    return (errors.gather(-1, order).relu() * steps.detach()).sum(-1)


class LovaszSoftmax(Overlap):
    r"""Lovasz extension of the Jaccard loss of every class at the errors :math:`|Y-p|`.

    Arguments:
        over: 'batch' (all pixels together), 'image' (mean over images), or 'class'.
        absent: 'drop' (classes that occur, of the batch or the image), or 'keep' (all classes).
        activation: 'softmax', 'sigmoid', or 'none' (probabilities come in).
        ignore_index: target of pixels that do not count.

    Call with scores (B, C, *) and integer (B, *) or mask (B, C, *) targets.

    >>> import torch, torchlosses as tl
    >>> p = torch.tensor([[[0.8, 0.4], [0.2, 0.6]]])
    >>> tl.LovaszSoftmax(activation="none")(p, torch.tensor([[0, 1]]))
    tensor(0.3500)
    """

    card: ClassVar[Card] = Card(
        title="The Lovasz-Softmax Loss: A Tractable Surrogate for the Optimization of the Intersection-over-Union Measure",
        year=2018,
        identifier="arXiv:1705.08790",
        family="overlap",
        formula=r"\frac1{|C|}\sum_c\overline{\Delta_{J_c}}(|Y_c-p_c|)",
        purpose="Optimise the intersection over union itself, often after training with cross-entropy.",
        scores="none",
        aliases=("LovaszLoss", "lovasz_softmax", "Lovasz"),
        cost="O(P log P) per class",
        over="classes, then images",
        detached="the steps of the Jaccard index, constant between ties",
    )

    over: str = choice("batch", "what is taken together", options=("image", "class", "batch"))
    absent: str = choice("drop", "classes without target", options=("keep", "zero", "drop"))

    def value(self, masks: Masks) -> Tensor:
        return self._extended((masks.truth - masks.soft.value).abs(), masks)

    def _extended(self, errors: Tensor, masks: Masks) -> Tensor:
        truth = masks.truth
        counted = None if masks.counted is None else masks.counted.expand_as(truth)
        if self.over == "batch":
            errors, truth = errors.transpose(0, 1).flatten(1)[None], truth.transpose(0, 1).flatten(1)[None]
            counted = None if counted is None else counted.transpose(0, 1).flatten(1)[None]
        return self.averaged(lovasz_extension(errors, truth, counted), (truth > 0).any(-1))


class LovaszHinge(LovaszSoftmax):
    r"""Binary Lovasz extension of the Jaccard loss at the hinge errors :math:`1-s(2Y-1)`, negative ones worth 0.

    Arguments:
        over: 'image' (mean over images) or 'batch' (all pixels together).
        ignore_index: target of pixels that do not count.

    Call with scores (B, *) or (B, 1, *) and 0/1 targets of the same shape. An image without foreground is worth its largest
    error.

    >>> import torch, torchlosses as tl
    >>> tl.LovaszHinge()(torch.tensor([[2.0, -0.5, 0.0]]), torch.tensor([[1, 0, 0]]))
    tensor(0.5833)
    """

    card: ClassVar[Card] = Card(
        title="The Lovasz-Softmax Loss: A Tractable Surrogate for the Optimization of the Intersection-over-Union Measure",
        year=2018,
        identifier="arXiv:1705.08790",
        family="overlap",
        formula=r"\overline{\Delta_{J}}(1-s(2Y-1))",
        purpose="Optimise the intersection over union of a binary mask.",
        scores="none",
        aliases=("lovasz_hinge", "BinaryLovasz"),
        cost="O(P log P)",
        over="images",
        detached="the steps of the Jaccard index, constant between ties",
    )

    over: str = choice("image", "what is taken together", options=("image", "batch"))
    absent: str = choice("keep", "images without foreground", options=("keep", "zero", "drop"))
    activation: str = choice("none", "scores enter as they are", options=("none",))

    def masks(self, scores: Tensor, targets: Tensor, mask: Tensor | None = None) -> Masks:
        if targets.shape != scores.shape:
            raise ValueError(f"targets: expected shape {tuple(scores.shape)} as the scores, got {tuple(targets.shape)}")
        if self.ignore_index is not None:
            known = targets != self.ignore_index
            mask = known if mask is None else known & mask.reshape(known.shape)
            targets = targets.masked_fill(~known, 0)
        flat = (scores.shape[0], 1, -1)
        cells = None if mask is None else mask.reshape(scores.shape[0], -1)
        return super().masks(scores.reshape(flat), targets.reshape(flat), cells)

    def value(self, masks: Masks) -> Tensor:
        return self._extended(1 - masks.soft.value * (2 * masks.truth - 1), masks)
