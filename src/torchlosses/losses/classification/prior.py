"""Cross-entropy whose scores are moved by class frequencies: long-tailed classification."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.hyperparameters import data, real
from torchlosses.losses.classification.softmax import CrossEntropy
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets


class LogitAdjusted(CrossEntropy):
    r"""Cross-entropy on ``s_j + tau * log prior_j``: long-tailed training for balanced accuracy.

    Arguments:
        class_counts: (C,) training examples of each class, >= 0; a class without any counts as one example.
        tau: strength of the shift; 1 is balanced softmax.
        label_smoothing, smoothing: as :class:`CrossEntropy`.

    The shift carries no gradient, and :meth:`predict` leaves it out.

    >>> import torch, torchlosses as tl
    >>> loss = tl.LogitAdjusted(class_counts=torch.tensor([90, 10]))
    >>> loss(torch.zeros(1, 2), torch.tensor([1]))
    tensor(2.3026)
    """

    card: ClassVar[Card] = Card(
        title="Long-tail Learning via Logit Adjustment",
        year=2020,
        identifier="arXiv:2007.07314",
        family="classification",
        formula=r"-\log\frac{\pi_y^\tau e^{s_y}}{\sum_j \pi_j^\tau e^{s_j}}",
        purpose="Balanced accuracy from a long-tailed training set.",
        tasks=("classification",),
        aliases=("LogitAdjustedLoss", "BalancedSoftmax", "balanced softmax", "LADE prior"),
        detached="the shift",
        equals=("CrossEntropy at tau=0", "BalancedSoftmax at tau=1"),
    )

    class_counts: Tensor = data("training examples of each class, (C,)")
    tau: float = real(1.0, "strength of the shift", low=0, search=(0.25, 2.0))

    def setup(self) -> None:
        self.class_counts = checked_counts(self.class_counts)

    def _scores(self, scores: Scores | Tensor, targets: Targets | Tensor) -> Scores:
        recipe = as_scores(scores)
        counts = known_counts(self.class_counts, recipe)
        return self.adjust(recipe, counts)

    def adjust(self, recipe: Scores, counts: Tensor) -> Scores:
        """The scores that enter cross-entropy; ``counts`` (C,) positive, in the working type."""
        shift = self.tau * (counts / counts.sum()).log()
        return recipe.plus(shift[None, :])


class VectorScaling(LogitAdjusted):
    r"""Cross-entropy on ``s_j / Delta_j + tau * log prior_j`` with ``Delta_j = (n_max / n_j)^gamma``.

    Arguments:
        class_counts: (C,) training examples of each class, >= 0; a class without any counts as one example.
        gamma: strength of the multiplicative part, >= 0; 0 is :class:`LogitAdjusted`.
        tau, label_smoothing, smoothing: as :class:`LogitAdjusted`.

    >>> import torch, torchlosses as tl
    >>> loss = tl.VectorScaling(class_counts=torch.tensor([90, 10]))
    >>> loss(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    tensor(1.8509)
    """

    card: ClassVar[Card] = Card(
        title="Label-Imbalanced and Group-Sensitive Classification under Overparameterization",
        year=2021,
        identifier="arXiv:2103.01550",
        family="classification",
        formula=r"-\log\frac{e^{s_y/\Delta_y+\iota_y}}{\sum_j e^{s_j/\Delta_j+\iota_j}}",
        purpose="Long-tailed classification with networks that fit the training set.",
        tasks=("classification",),
        aliases=("VSLoss", "VS loss", "CDT", "class-dependent temperatures"),
        detached="scales and shifts",
        equals=("LogitAdjusted at gamma=0", "class-dependent temperatures (CDT, arXiv:2001.01385) at tau=0"),
    )

    gamma: float = real(0.3, "strength of the multiplicative part", low=0, search=(0.05, 0.5))

    def adjust(self, recipe: Scores, counts: Tensor) -> Scores:
        scale = (counts / counts.max()) ** self.gamma
        return super().adjust(recipe.times(scale[None, :]), counts)


def checked_counts(counts: object) -> Tensor:
    """Class counts as declared with ``data``, or a message that says what they should be."""
    if not isinstance(counts, Tensor) or counts.dim() != 1 or not counts.numel():
        shown = tuple(counts.shape) if isinstance(counts, Tensor) else type(counts).__name__
        raise TypeError(f"class_counts: expected a tensor of shape (C,) of counts >= 0, got {shown}")
    if counts.device.type == "cpu" and bool((counts < 0).any()):
        raise ValueError(f"class_counts: expected counts >= 0, got {counts.min().item()}")
    return counts


def known_counts(counts: Tensor, recipe: Scores) -> Tensor:
    """The counts as positive numbers on the scores' device."""
    if counts.shape[0] != recipe.columns_count:
        raise ValueError(
            f"class_counts: expected shape ({recipe.columns_count},) as the scores' columns, got {tuple(counts.shape)}"
        )
    counts = counts.detach().to(recipe.device, working(recipe))
    return torch.where(counts > 0, counts, 1.0)


def positive_counts(counts: Tensor, like: Tensor) -> Tensor:
    """The counts with the device and dtype of a block of scores; a class without any counts as one example."""
    counts = counts.detach().to(like.device, like.dtype)
    return torch.where(counts > 0, counts, 1.0)


def working(recipe: Scores) -> torch.dtype:
    """The type that the scores are computed in."""
    return torch.float64 if recipe.dtype == torch.float64 else torch.float32
