"""Errors that grow linearly far from the target."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.hyperparameters import choice, flag, real
from torchlosses.loss import Loss


class Huber(Loss):
    r"""Squared near the target, linear beyond: :math:`e^2/2` if :math:`|e|\le\delta`, else :math:`\delta(|e|-\delta/2)`.

    Arguments:
        delta: where it becomes linear, > 0. normalize: divides by delta (smooth L1).
        reduction: 'mean' over all elements, 'sum' or 'none'.

    Call with predictions and targets of one shape, floating point; half precision is computed in float32.

    >>> import torch, torchlosses as tl
    >>> tl.Huber()(torch.tensor([0.5, 3.0]), torch.zeros(2))
    tensor(1.3125)
    """

    card: ClassVar[Card] = Card(
        title="Robust Estimation of a Location Parameter",
        year=1964,
        identifier="doi:10.1214/aoms/1177703732",
        family="regression",
        formula=r"e^2/2\ \text{if}\ |e|\le\delta,\ \text{else}\ \delta(|e|-\delta/2)",
        purpose="Regression that outliers do not dominate.",
        scores="none",
        aliases=("HuberLoss", "smooth_l1_loss"),
        cost="O(N)",
        over="elements",
        equals=("SmoothL1: normalize=True",),
    )

    delta: float = real(1.0, "where the error becomes linear", above=0, search=(0.01, 10.0, "log"))
    normalize: bool = flag(False, "whether the value is divided by delta")
    reduction: str = choice("mean", "how elements become one number", options=("mean", "sum", "none"))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The value on predictions and targets of one shape."""
        if prediction.shape != target.shape:
            raise ValueError(f"target: expected shape {tuple(prediction.shape)} as prediction, got {tuple(target.shape)}")
        wide = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
        error = prediction.to(wide) - target.to(wide)
        near = error.clamp(-self.delta, self.delta)
        value = near * (error - 0.5 * near)
        if self.normalize:
            value = value / self.delta
        if self.reduction == "none":
            return value
        return value.sum() / max(value.numel(), 1) if self.reduction == "mean" else value.sum()


class SmoothL1(Huber):
    r"""Huber over delta: slope 1 far from the target, :math:`e^2/(2\delta)` near it.

    >>> import torch, torchlosses as tl
    >>> tl.SmoothL1(delta=0.5)(torch.tensor([0.25, 3.0]), torch.zeros(2))
    tensor(1.4062)
    """

    card = Card(
        title="Fast R-CNN",
        year=2015,
        identifier="arXiv:1504.08083",
        family="regression",
        formula=r"e^2/(2\beta)\ \text{if}\ |e|\le\beta,\ \text{else}\ |e|-\beta/2",
        purpose="Regression that outliers do not dominate, of slope 1.",
        scores="none",
        aliases=("SmoothL1Loss", "beta"),
        cost="O(N)",
        over="elements",
        equals=("Huber(normalize=True)",),
    )
    normalize = True
