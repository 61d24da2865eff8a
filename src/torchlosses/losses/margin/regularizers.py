"""Regularizers of embeddings from class labels, beside a classification loss: NBC and orthogonal projection."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.hyperparameters import choice, data, flag, real
from torchlosses.loss import SetLoss
from torchlosses.lowering import working_dtype
from torchlosses.unit import unit


def _checked(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if embeddings.dim() != 2 or not embeddings.dtype.is_floating_point:
        raise ValueError(f"embeddings: expected floating point (B, D), got {embeddings.dtype} {tuple(embeddings.shape)}")
    if labels.dtype.is_floating_point or labels.reshape(-1).shape[0] != embeddings.shape[0]:
        raise ValueError(f"labels: expected integers ({embeddings.shape[0]},), got {labels.dtype} {tuple(labels.shape)}")
    return embeddings.to(working_dtype(embeddings.dtype)), labels.reshape(-1)


class NegativeBlockContrast(SetLoss):
    r"""NBC-Softmax's regularizer: the means of the batch's classes are pushed apart.

    With :math:`S_{kl}` the cosines of class means and 0 on the diagonal,
    :math:`\frac1C\,\mathrm{mean}_k\log(\sum_l e^{\tau S_{kl}}+\epsilon)` over the K classes present; used as
    ``(1 - rho) * base + rho * NBC``.

    Arguments:
        tau: factor on the cosines, > 0 (not a divisor).
        classes: number of classes of the data set, C, >= 1.
        eps: inside the logarithm, >= 0; the released code has 1e-10, which shows where one class is present.

    Call with embeddings (B, D), raw, and integer labels (B,); O(BD + K^2 D).

    >>> import torch, torchlosses as tl
    >>> tl.NegativeBlockContrast(classes=2)(torch.eye(2), torch.tensor([0, 1]))
    tensor(0.3466)
    """

    card: ClassVar[Card] = Card(
        title="NBC-Softmax: Darkweb Author fingerprinting and migration tracking",
        year=2022,
        identifier="arXiv:2212.08184",
        family="margin",
        formula=r"\frac1C\,\mathrm{mean}_k\log\sum_l e^{\tau\cos(c_k,c_l)[k\ne l]}",
        purpose="Keeps class means apart, beside any classification loss.",
        scores="none",
        aliases=("NBC", "NBC-Softmax", "negative block contrast"),
        cost="O(BD + K^2 D)",
        over="the batch (one number)",
    )

    tau: float = real(0.2, "factor on the cosines", above=0, search=(0.1, 5.0, "log"))
    classes: int = data("the number of classes of the data set, an integer >= 1")
    eps: float = real(0.0, "inside the logarithm", low=0)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The value on embeddings (B, D) and labels (B,)."""
        x, labels = _checked(first, second)
        if not x.shape[0]:
            return x.sum()
        present, place = labels.unique(return_inverse=True)
        sums = x.new_zeros(present.shape[0], x.shape[1]).index_add(0, place, x)
        means = unit(sums)  # a mean and a sum point the same way
        similar = (self.tau * means @ means.T).fill_diagonal_(0.0)
        level = similar.logsumexp(1)
        if self.eps:
            level = level + torch.log1p(self.eps * (-level).exp())
        return level.mean() / self.classes


class OrthogonalProjection(SetLoss):
    r"""OPL: cosines of one class go to 1, cosines of different classes to 0; added to cross-entropy.

    :math:`(1 - P) + \gamma N`, P the mean cosine over ordered pairs of one class, N that of different classes in absolute
    value. Without a pair of a kind its mean is 0.

    Arguments:
        gamma: weight of the pairs of different classes, >= 0.
        absolute: 'elementwise' (mean of absolute cosines), 'mean' (absolute value of the mean), or 'none', which
            rewards opposite directions and costs O(BD) only.
        temperature: divides the cosines, > 0.
        normalize: features are brought to unit length; False takes their products as they come.

    Call with features (B, D) and integer labels (B,).

    >>> import torch, torchlosses as tl
    >>> tl.OrthogonalProjection()(torch.eye(2)[[0, 0, 1]], torch.tensor([0, 0, 1])) < 1e-5
    tensor(True)
    """

    card: ClassVar[Card] = Card(
        title="Orthogonal Projection Loss",
        year=2021,
        identifier="arXiv:2103.14021",
        family="margin",
        formula=r"(1-P)+\gamma|N|",
        purpose="Class features that are orthogonal to each other, beside cross-entropy.",
        scores="none",
        aliases=("OPL", "OrthogonalProjectionLoss"),
        cost="O(B^2 D); O(BD) with absolute='none'",
        over="pairs of a kind (plus 1e-6), then one number",
    )

    gamma: float = real(2.0, "weight of the pairs of different classes", low=0, search=(0.1, 2.0, "log"))
    absolute: str = choice("elementwise", "of what the absolute value is taken", options=("elementwise", "mean", "none"))

    temperature: float = real(1.0, "divides the cosines", above=0)
    normalize: bool = flag(True, "features at unit length")

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The value on features (B, D) and labels (B,)."""
        x, labels = _checked(first, second)
        if not x.shape[0]:
            return x.sum()
        x = (unit(x) if self.normalize else x) / math.sqrt(self.temperature)
        _, place, size = labels.unique(return_inverse=True, return_counts=True)
        own = (x * x).sum()
        sums = x.new_zeros(size.shape[0], x.shape[1]).index_add(0, place, x)
        same = (sums * sums).sum() - own
        if self.absolute == "elementwise":
            other = torch.where(labels[:, None] != labels[None, :], (x @ x.T).abs(), 0.0).sum()
        else:
            other = x.sum(0).square().sum() - own - same
        alike = (size * (size - 1)).sum()
        apart = labels.shape[0] * (labels.shape[0] - 1) - alike
        other = torch.where(apart > 0, other, 0.0)  # the difference of sums leaves rounding
        right, wrong = same / (alike.to(x.dtype) + 1e-6), other / (apart.to(x.dtype) + 1e-6)
        value: Tensor = 1 - right + self.gamma * (wrong.abs() if self.absolute == "mean" else wrong)
        return value


__all__ = ["NegativeBlockContrast", "OrthogonalProjection"]
