"""Cross-entropy with agreement between augmented views of an example."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import real
from torchlosses.loss import RowLoss


def log_softmax_of_views(scores: Tensor, views: Tensor, targets: Block) -> Tensor:
    """log p (b, 1 + V, L) of the scores (b, L) and of further views' (b, V, L); 0 in cells that do not exist."""
    if views.dim() != 3 or views.shape[::2] != scores.shape:
        raise ValueError(f"views: expected (rows, views, {scores.shape[1]}), got {tuple(views.shape)}")
    every = torch.cat([scores[:, None], views.to(scores.dtype)], 1)
    if targets.all_valid:
        return every.log_softmax(-1)
    valid = targets.valid[:, None]
    some = targets.valid.any(-1)[:, None, None]
    log_p = every.masked_fill(~valid & some, -torch.inf).log_softmax(-1)
    return torch.where(valid, log_p, 0.0)


def mixture(log_p: Tensor, log_weight: Tensor) -> Tensor:
    """log of the mean (b, L) of distributions log p (b, V, L), weighted by the exponentials of ``log_weight`` (V,)."""
    return (log_p + log_weight[:, None]).logsumexp(1)


class AugMix(RowLoss):
    r"""AugMix: cross-entropy of the clean view, plus ``weight`` times the Jensen-Shannon divergence of all views.

    ``-log p_y + weight * mean_v KL(p_v | m)``, with m the mean of the softmax p of the scores and of the views'.

    Arguments:
        weight: of the divergence, >= 0.

    Needs ``targets.given(views=scores)`` (B, V, C), the scores of V augmentations of every example (the paper has two);
    gradient flows through all.

    >>> import torch, torchlosses as tl
    >>> targets = tl.classes(torch.tensor([0])).given(views=torch.tensor([[[0.0, 0.0]]]))
    >>> tl.AugMix()(torch.tensor([[2.0, 0.0]]), targets)
    tensor(1.2014)
    """

    card: ClassVar[Card] = Card(
        title="AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty",
        year=2019,
        identifier="arXiv:1912.02781",
        family="classification",
        formula=r"-\log p_y+\frac{\lambda}{V+1}\sum_v\mathrm{KL}(p_v\|m)",
        purpose="Predictions that agree across augmentations: robustness to corruptions, calibration.",
        aliases=("JsdCrossEntropy", "JSD consistency", "Jensen-Shannon consistency"),
        equals=("CrossEntropy at weight=0",),
    )
    accepts = ("probability",)
    copies = 16.0

    weight: float = real(12.0, "of the divergence", low=0, search=(1.0, 50.0, "log"))

    def rule(self, scores: Tensor, targets: Block, *, views: Tensor, **fields: Tensor) -> Returned:
        log_p = log_softmax_of_views(scores, views, targets)
        number = log_p.shape[1]
        apart = log_p - mixture(log_p, log_p.new_full((number,), -math.log(number)))[:, None]
        divergence = targets.sum((log_p.exp() * apart).mean(1))
        return self.weight * divergence - targets.sum(targets.probability * log_p[:, 0])
