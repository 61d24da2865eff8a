"""Redundancy reduction between two views."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.hyperparameters import choice, flag, real
from torchlosses.loss import SetLoss


class BarlowTwins(SetLoss):
    r"""Cross-correlation of two views pushed to the identity: :math:`\sum_i(1-C_{ii})^2+\lambda\sum_{i\ne j}C_{ij}^2`.

    Arguments:
        weight: lambda of the off-diagonal, >= 0.
        normalize: 'standard' (each feature to mean 0, variance 1 over the batch), 'center' (mean 0) or 'none'.
        symmetric: C is averaged with its transpose.

    Call with the two views' representations (B, D): raw, before any normalization.

    >>> import torch, torchlosses as tl
    >>> z = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    >>> tl.BarlowTwins()(z, z) < 1e-6
    tensor(True)
    """

    card: ClassVar[Card] = Card(
        title="Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
        year=2021,
        identifier="arXiv:2103.03230",
        family="representation",
        formula=r"\sum_i(1-C_{ii})^2+\lambda\sum_{i\ne j}C_{ij}^2",
        purpose="Learn representations from two views without negatives.",
        scores="none",
        aliases=("BarlowTwinsLoss", "lambda_param"),
        cost="O(BD^2)",
        over="the batch (one number)",
    )

    weight: float = real(5e-3, "weight of the off-diagonal", low=0, search=(1e-4, 1.0, "log"))
    normalize: str = choice("standard", "what is done to each feature", options=("standard", "center", "none"))
    symmetric: bool = flag(False, "whether C is averaged with its transpose")

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The value on two views (B, D)."""
        if first.dim() != 2 or first.shape != second.shape:
            raise ValueError(
                f"views: expected two tensors of one shape (B, D), got {tuple(first.shape)} and {tuple(second.shape)}"
            )
        wide = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
        size = max(first.shape[0], 1)
        with torch.autocast(first.device.type, enabled=False):
            correlation = self._normalized(first.to(wide)).T @ self._normalized(second.to(wide)) / size
            if self.symmetric:
                correlation = (correlation + correlation.T) / 2
            diagonal = correlation.diagonal()
            off = correlation.square().sum() - diagonal.square().sum()
            return (1 - diagonal).square().sum() + self.weight * off

    def _normalized(self, x: Tensor) -> Tensor:
        if self.normalize == "none" or not x.shape[0]:
            return x
        x = x - x.mean(0)
        if self.normalize == "center":
            return x
        return x * torch.rsqrt(x.square().mean(0) + 1e-5)  # batch norm's biased variance and epsilon
