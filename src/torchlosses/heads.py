"""What stands between features and a loss: class centres, closed-form classifiers, decision rules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from torchlosses.losses.classification.maps import sparsemax
from torchlosses.lowering import working_dtype
from torchlosses.moments import ClassMoments
from torchlosses.scores import Scores, distance, linear


class Centers(nn.Module):
    """Learnable class centres; called with features it gives minus their distances, as :func:`distance`.

    Arguments:
        features, classes: D and C.
        metric, p, eps: as :func:`distance`; with 'mahalanobis' a diagonal precision is learned too, starting at 1.

    :meth:`fit` puts the centres on the class means, which extends a trained embedding to new classes.

    >>> import torch, torchlosses as tl
    >>> head = tl.Centers(2, 3, metric="manhattan").fit(torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1]))
    >>> head(torch.tensor([[1.0, 0.0]])).tensor()
    tensor([[-0., -2., -1.]], grad_fn=...)
    """

    def __init__(self, features: int, classes: int, metric: str = "euclidean", *, p: float = 1.5, eps: float = 0.0) -> None:
        super().__init__()
        self.metric, self.p, self.eps = metric, p, eps
        self.weight = nn.Parameter(torch.randn(classes, features) / math.sqrt(features))
        self.log_precision = nn.Parameter(torch.zeros(features)) if metric == "mahalanobis" else None
        distance(self.weight, self.weight, metric, p=p, eps=eps)  # refuses what is not a distance

    def forward(self, features: Tensor) -> Scores:
        """Scores of features (..., D)."""
        precision = None if self.log_precision is None else self.log_precision.exp()
        return distance(features, self.weight, self.metric, p=self.p, eps=self.eps, precision=precision)

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> Centers:
        """Moves every centre to the mean of its examples (0 where a class has none)."""
        moments = ClassMoments(self.weight.shape[1], self.weight.shape[0])
        moments.add(features, labels)
        self.weight.copy_(moments.mean)
        return self


class GaussianNaiveBayes(nn.Module):
    r"""Gaussian naive Bayes: a classifier in closed form, ``log pi_c - 1/2 sum_d [(x_d - mu_cd)^2 / v_d + log 2 pi v_d]``.

    Arguments:
        features, classes: D and C.
        shared_variance: one variance per feature, the classes' averaged by their frequencies (the classifier is then
            linear); otherwise one per class and feature.
        eps: added to every variance, >= 0.
        var_smoothing: share of the largest feature variance of the whole training set added as well, >= 0.

    :meth:`fit` starts anew, :meth:`partial_fit` merges further examples. Called with features it gives log joint
    probabilities as a recipe of scores; :meth:`log_density` leaves the class frequencies out.

    "Revisiting Discriminative vs. Generative Classifiers: Theory and Implications", 2023, arXiv:2302.02334.

    >>> import torch, torchlosses as tl
    >>> x, y = torch.tensor([[-1.0], [-3.0], [1.0], [3.0]]), torch.tensor([0, 0, 1, 1])
    >>> tl.GaussianNaiveBayes(1, 2).fit(x, y)(torch.tensor([[2.0]])).tensor()
    tensor([[-9.6121, -1.6121]])
    """

    def __init__(
        self, features: int, classes: int, *, shared_variance: bool = True, eps: float = 1e-9, var_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        for name, value in (("eps", eps), ("var_smoothing", var_smoothing)):
            if not value >= 0:
                raise ValueError(f"{name}: expected a number >= 0, got {value!r}")
        self.shared_variance, self.eps, self.var_smoothing = shared_variance, eps, var_smoothing
        self.moments = ClassMoments(features, classes)

    def fit(self, features: Tensor, labels: Tensor) -> GaussianNaiveBayes:
        """The classifier of these examples alone."""
        self.moments.clear()
        return self.partial_fit(features, labels)

    def partial_fit(self, features: Tensor, labels: Tensor) -> GaussianNaiveBayes:
        """Merges examples (n, D) of classes (n,)."""
        self.moments.add(features, labels)
        return self

    @property
    def prior(self) -> Tensor:
        """(C,) class frequencies."""
        return self.moments.count / self.moments.count.sum()

    @property
    def means(self) -> Tensor:
        """(C, D)."""
        return self.moments.mean

    @property
    def variance(self) -> Tensor:
        """(D,) shared, or (C, D); with what ``eps`` and ``var_smoothing`` add."""
        count, spread = self.moments.count[:, None], self.moments.spread
        middle = self.prior @ self.means
        overall = (spread + count * (self.means - middle).square()).sum(0) / count.sum()
        added = self.eps + self.var_smoothing * overall.max()
        each = spread / count.clamp(min=1) + added
        return self.prior @ each if self.shared_variance else each

    def log_density(self, features: Tensor) -> Scores:
        """Log density of features (..., D) under each class, as a recipe of scores."""
        return self._scores(features, torch.zeros_like(self.prior))

    def forward(self, features: Tensor) -> Scores:
        """Log joint probability with each class; -inf for classes without examples."""
        return self._scores(features, self.prior.log())

    def _scores(self, features: Tensor, shift: Tensor) -> Scores:
        kind = working_dtype(torch.promote_types(features.dtype, self.means.dtype))
        means, variance, shift, prior = (t.to(kind) for t in (self.means, self.variance, shift, self.prior))
        middle = prior @ means  # squares of centred features cancel less
        means = means - middle
        x = features.to(kind) - middle
        variance = variance.expand_as(means)
        constant = -0.5 * (means.square() / variance + (2 * math.pi * variance).log()).sum(-1) + shift
        return linear(torch.cat([x, x.square()], -1), torch.cat([means / variance, -0.5 / variance], -1), constant)


class FrechetMean(nn.Module):
    r"""Predicts among all classes of a metric space from probabilities of the observed ones: the Frechet mean.

    Scores are ``-sum_c p_c distance(c, l)^2``; with ``distance = 1 - identity`` the argmax is the usual one.

    Arguments:
        distances: (C, L) between the C observed and all L classes, >= 0; a buffer.

    "Geometry-Aware Adaptation for Pretrained Models" (Loki), 2023, arXiv:2307.12226.

    >>> import torch, torchlosses as tl
    >>> line = tl.FrechetMean(torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]))  # class 1 was never observed
    >>> line(torch.tensor([[0.5, 0.5]])), line.predict(torch.tensor([[0.5, 0.5]]))
    (tensor([[-2., -1., -2.]]), tensor([1]))
    """

    squares: Tensor

    def __init__(self, distances: Tensor) -> None:
        super().__init__()
        if distances.dim() != 2 or not distances.dtype.is_floating_point:
            raise ValueError(f"distances: expected floating point (C, L), got {distances.dtype} {tuple(distances.shape)}")
        self.register_buffer("squares", distances.square())

    def forward(self, probability: Tensor) -> Tensor:
        """Scores (..., L) of probabilities (..., C)."""
        found: Tensor = probability @ self.squares.to(probability.dtype)
        return -found

    def predict(self, probability: Tensor) -> Tensor:
        """The class (...,) nearest to the distribution; the first of equals."""
        return self.forward(probability).argmax(-1)

    def one_hot(self, probability: Tensor, backward: str = "polytope", eta: float = 0.01, chain: bool = True) -> Tensor:
        """The prediction as a one-hot (..., L) that passes a gradient back, for training through the rule.

        Arguments:
            probability: (..., C).
            backward: 'straight_through' passes the gradient of the one-hot z to the scores as it is; 'polytope' passes
                ``z - project(z - eta * gradient)``, the step that stays in the simplex.
            eta: the length of that step, > 0.
            chain: goes on from the scores to the probabilities through the distances; False hands the scores' gradient to
                the probabilities themselves, as the released code does (needs L = C).
        """
        if backward not in ("polytope", "straight_through"):
            raise ValueError(f"backward: expected 'polytope' or 'straight_through', got {backward!r}")
        if not eta > 0:
            raise ValueError(f"eta: expected a number > 0, got {eta!r}")
        if not chain and self.squares.shape[0] != self.squares.shape[1]:
            raise ValueError(f"chain: expected True for distances of shape {tuple(self.squares.shape)}, got False")
        scores = self.forward(probability)
        through = scores if chain else probability
        step = eta if backward == "polytope" else None
        found: Tensor = _OneHot.apply(through, scores.detach(), step)  # type: ignore[no-untyped-call]
        return found


class _OneHot(torch.autograd.Function):
    """The one-hot of the largest score, with a surrogate gradient to its first argument."""

    @staticmethod
    def forward(ctx: Any, through: Tensor, scores: Tensor, eta: float | None) -> Tensor:
        hot = functional.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)
        ctx.save_for_backward(hot)
        ctx.eta = eta
        return hot

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (hot,) = ctx.saved_tensors
        if ctx.eta is None:
            return gradient, None, None
        return hot - sparsemax(hot - ctx.eta * gradient), None, None
