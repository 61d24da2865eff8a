"""The Mahalanobis detector: how far features lie from every class, in units of the spread within classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchlosses.moments import ClassMoments


class MahalanobisScore(nn.Module):
    r"""``max_c -1/2 (f - mu_c)' S^-1 (f - mu_c)`` with class means and one covariance S of the class-centred features.

    Arguments:
        features, classes: widths of what will be fitted.
        shrinkage: share in [0, 1] of ``trace(S)/D`` times the identity mixed into S; needed with fewer examples than
            features, where the pseudo-inverse serves otherwise.

    :meth:`fit` starts anew, :meth:`partial_fit` adds examples (of new classes too); means and covariance are buffers.
    Larger means more like the training data.

    Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", 2018,
    arXiv:1807.03888.

    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    >>> score = MahalanobisScore(2, 1).fit(x, torch.zeros(4, dtype=torch.long))
    >>> score(torch.tensor([[1.0, 1.0], [3.0, 1.0]]))
    tensor([-0., -2.])
    """

    precision: Tensor

    def __init__(self, features: int, classes: int, shrinkage: float = 0.0) -> None:
        super().__init__()
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage: expected a number in [0, 1], got {shrinkage!r}")
        self.shrinkage = shrinkage
        self.moments = ClassMoments(features, classes, full=True)
        self.register_buffer("precision", torch.eye(features))

    def fit(self, features: Tensor, labels: Tensor) -> MahalanobisScore:
        """Means and covariance of these examples alone."""
        self.moments.clear()
        return self.partial_fit(features, labels)

    @torch.no_grad()
    def partial_fit(self, features: Tensor, labels: Tensor) -> MahalanobisScore:
        """Adds examples (n, D) of classes (n,) to what was fitted."""
        self.moments.add(features, labels)
        spread = self.moments.spread / self.moments.count.sum()
        size = spread.shape[0]
        mixed = (1 - self.shrinkage) * spread
        mixed += self.shrinkage * spread.trace() / size * torch.eye(size, dtype=spread.dtype, device=spread.device)
        self.precision = torch.linalg.pinv(mixed, hermitian=True)
        return self

    @property
    def means(self) -> Tensor:
        """(C, D); zeros for classes without examples."""
        return self.moments.mean

    def class_scores(self, features: Tensor) -> Tensor:
        """``-1/2`` the squared distance to each class (B, C); -inf for classes without examples."""
        apart = features[:, None] - self.means.to(features.dtype)
        found = -0.5 * ((apart @ self.precision.to(features.dtype)) * apart).sum(-1)
        return found.masked_fill(self.moments.count == 0, -torch.inf)

    def forward(self, features: Tensor) -> Tensor:
        """The score of each row (B,)."""
        return self.class_scores(features).max(-1).values


def perturbed(inputs: Tensor, score: Callable[[Tensor], Tensor], size: float = 0.001) -> Tensor:
    """Inputs moved a little so that the score rises, which parts known from unknown: ``x + size * sign(grad score)``.

    Arguments:
        inputs: (B, ...), floating point.
        score: inputs to scores (B,), such as ``lambda x: mahalanobis(network(x))``.
        size: of the step; the detector's authors try 0 to 0.01.

    >>> import torch
    >>> perturbed(torch.tensor([[1.0, -1.0]]), lambda x: -x.square().sum(1), size=0.25)
    tensor([[ 0.7500, -0.7500]])
    """
    with torch.enable_grad():
        x = inputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(score(x).sum(), x)
    return inputs.detach() + size * slope.sign()
