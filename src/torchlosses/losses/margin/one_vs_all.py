"""Margins under one sigmoid per class in place of the softmax: OneVsAll, UniFace, SphereFace2."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome
from torchlosses.hyperparameters import choice, data, flag, real
from torchlosses.loss import RowLoss, Wrapper
from torchlosses.losses.margin.angular import CosFace
from torchlosses.losses.margin.softmax import Margins, MarginSoftmax
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets

BIASES = ("shared", "per_class", "none")


class Binary(Wrapper):
    """Base: one binary logistic loss per class on the scores of a margin softmax, plus a learnable bias."""

    loss: Margins
    classes: int = data("the number of classes, an integer >= 2")
    biases: str = choice("shared", "learnable biases", options=BIASES)
    bounded: bool = flag(False, "arguments of the binary losses clipped to +-scale")

    bias: nn.Parameter | None

    def __init__(self, loss: RowLoss, **hyperparameters: Any) -> None:
        if not isinstance(loss, Margins):
            raise TypeError(f"loss: expected a margin softmax such as ArcFace(), got {type(loss).__name__}")
        super().__init__(loss, **hyperparameters)
        if isinstance(self.classes, bool) or not isinstance(self.classes, int) or self.classes < 2:
            raise ValueError(f"classes: expected an integer >= 2, got {self.classes!r}")
        shape = (self.classes,) if self.biases == "per_class" else ()
        self.bias = None if self.biases == "none" else nn.Parameter(torch.full(shape, self.first_bias()))

    def weights(self) -> tuple[float, float]:
        """Of the right column and of the wrong ones."""
        raise NotImplementedError

    def first_bias(self) -> float:
        """Where the bias starts: nearly all columns are wrong."""
        return -math.log(10 * self.classes)

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        if self.biases == "per_class" and recipe.columns_count != self.classes:
            raise ValueError(f"classes: expected one bias for each of {recipe.columns_count} columns, got {self.classes}")

    def _evaluate(self, scores: Tensor, targets: Block, fields: dict[str, Tensor]) -> Outcome:
        right = self.loss.right(targets.target(scores), targets, **fields)
        wrong = self.loss.wrong(scores, targets, **fields)
        if self.bias is not None:
            bias = self.bias.to(scores.dtype)
            right, wrong = right + (bias[targets.index] if bias.dim() else bias), wrong + bias
        against = -right
        if self.bounded:
            limit = self.loss.strength(**fields)
            assert isinstance(limit, float)
            against, wrong = against.clamp(-limit, limit), wrong.clamp(-limit, limit)
        positive, negative = self.weights()
        return Outcome.of(positive * softplus(against) + negative * targets.sum(softplus(wrong), targets.negative))

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The sigmoid of every score (..., L), without margin."""
        recipe = as_scores(scores)
        factor = self.prescale()
        z = recipe.times(factor).tensor()
        return (z if self.bias is None else z + self.bias.to(z.dtype)).sigmoid()


class OneVsAll(Binary):
    r"""The margins of a margin softmax under one binary logistic loss per class; classes need no common normalizer.

    A row costs ``positive_weight log(1 + exp(-z_y)) + negative_weight sum_{j != y} log(1 + exp(z_j))``, z the scaled
    cosines with their margins, plus a learnable bias (the parameter ``bias``).

    Arguments:
        loss: a margin softmax, such as ``ArcFace()``.
        classes: number of classes, >= 2; the bias starts at ``-log(10 classes)``, since nearly all columns are wrong.
        biases: 'shared' (one number), 'per_class', or 'none'.
        positive_weight, negative_weight: of the two parts, >= 0.
        bounded: arguments of the binary losses are clipped to +-scale, so that a term and its gradient stop there.

    >>> import torch, torchlosses as tl
    >>> loss = tl.OneVsAll(tl.ArcFace(scale=10.0), classes=2, biases="none")
    >>> loss(torch.tensor([[0.8, -0.5]]), torch.tensor([0]))
    tensor(0.0224)
    """

    positive_weight: float = real(1.0, "weight of the right column", low=0)
    negative_weight: float = real(1.0, "weight of the wrong columns", low=0, search=(0.1, 10.0, "log"))

    def __init__(self, loss: RowLoss, **hyperparameters: Any) -> None:
        super().__init__(loss, **hyperparameters)

    def weights(self) -> tuple[float, float]:
        return self.positive_weight, self.negative_weight


class UniFace(OneVsAll):
    r"""UniFace: CosFace with one sigmoid per class; a threshold that all classes share (UCE) or one for each (BCE).

    Arguments:
        classes: number of classes, >= 2 (under ``ClassSampling``, those of a call).
        margin: on the cosine, [0, 2].
        scale: factor on all cosines, > 0.
        biases: 'shared' (unified cross-entropy), 'per_class' (binary cross-entropy) or 'none'; minus the paper's b.
        negative_weight: of the wrong columns (the paper's lambda), >= 0.
        bounded: as released: arguments of the binary losses are clipped to +-scale.

    >>> import torch, torchlosses as tl
    >>> tl.UniFace(classes=2, scale=10.0)(torch.tensor([[0.8, -0.5]]), torch.tensor([0])).detach()
    tensor(0.3125)
    """

    card: ClassVar[Card] = Card(
        title="UniFace: Unified Cross-Entropy Loss for Deep Face Recognition",
        year=2023,
        identifier="doi:10.1109/ICCV51070.2023.01899",
        family="margin",
        formula=r"\log(1+e^{-s(\cos\theta_y-m)+b})+\lambda\sum_{j\ne y}\log(1+e^{s\cos\theta_j-b})",
        purpose="Face recognition where one threshold is to separate all positive pairs from all negative ones.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("UnifiedCrossEntropy", "UCE", "NormalizedBCE", "unified cross-entropy"),
        equals=("OneVsAll(CosFace())",),
        note="The bias is added: it is minus the paper's b.",
    )

    margin: float = real(0.4, "margin on the cosine", low=0, high=2, search=(0.1, 0.5))
    scale: float = real(64.0, "factor on all cosines", above=0, search=(8.0, 64.0, "log"))

    def __init__(self, **hyperparameters: Any) -> None:
        own = {n: hyperparameters.get(n, self._hypers[n].default) for n in ("margin", "scale")}
        super().__init__(CosFace(**own), **hyperparameters)


class AdjustedSimilarity(MarginSoftmax):
    """SphereFace2's cosines: ``g(c) - margin`` right, ``g(c) + margin`` wrong, ``g(c) = 2((c+1)/2)^power - 1``."""

    margin: float = real(0.4, "half the distance between right and wrong columns", low=0)
    power: float = real(3.0, "of the similarity adjustment", low=1)
    detach_margin = True

    def adjusted(self, cosine: Tensor) -> Tensor:
        return 2 * ((cosine + 1) / 2).clamp(min=0) ** self.power - 1

    def transform(self, cosine: Tensor, targets: Block, **fields: Any) -> Tensor:
        return self.adjusted(cosine) - self.margin

    def negatives(self, cosines: Tensor, right: Tensor, targets: Block, **fields: Any) -> Tensor:
        return self.adjusted(cosines) + self.margin


class SphereFace2(Binary):
    r"""SphereFace2: one weighted sigmoid per class, a margin on both sides, and stretched similarities.

    With ``g(c) = 2((c+1)/2)^power - 1`` the logits are ``scale (g(cos_y) - margin) + b`` and ``scale (g(cos_j) + margin)
    + b``, b learnable; the gradient is that of ``scale cos``.

    Arguments:
        classes: number of classes, >= 2; b starts where right and wrong columns balance at cosine 0.
        positive_share: weight of the right column (lambda), the wrong ones having 1 - lambda; in (0, 1).
        margin: >= 0.
        power: of the similarity adjustment, >= 1.
        scale: factor on all cosines, > 0; also divides the value.
        biases, bounded: as :class:`OneVsAll`.

    >>> import torch, torchlosses as tl
    >>> tl.SphereFace2(classes=2, scale=10.0)(torch.tensor([[0.8, -0.5]]), torch.tensor([0])).detach()
    tensor(0.1831)
    """

    card: ClassVar[Card] = Card(
        title="SphereFace2: Binary Classification is All You Need for Deep Face Recognition",
        year=2022,
        identifier="arXiv:2108.01513",
        family="margin",
        formula=r"\frac\lambda s\log(1+e^{-s(g(\cos\theta_y)-m)-b})+\frac{1-\lambda}s\sum_{j\ne y}"
        r"\log(1+e^{s(g(\cos\theta_j)+m)+b})",
        purpose="Face recognition without a normalizer over all classes; robust to label noise.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("SphereFace2Loss", "OneVsAllMargin"),
        detached="margin and similarity adjustment: a logit's derivative in its cosine is the scale",
        note="The released code multiplies the value by 50. Its class weights are unit vectors without gradient through "
        "their length.",
    )

    positive_share: float = real(0.7, "weight of the right column", above=0, below=1, search=(0.6, 0.8))
    margin: float = real(0.4, "half the distance between right and wrong columns", low=0, search=(0.2, 0.5))
    power: float = real(3.0, "of the similarity adjustment", low=1, search=(1.0, 5.0))
    scale: float = real(40.0, "factor on all cosines", above=0, search=(8.0, 64.0, "log"))

    def __init__(self, **hyperparameters: Any) -> None:
        own = {n: hyperparameters.get(n, self._hypers[n].default) for n in ("margin", "power", "scale")}
        super().__init__(AdjustedSimilarity(**own), **hyperparameters)

    def weights(self) -> tuple[float, float]:
        return self.positive_share / self.scale, (1 - self.positive_share) / self.scale

    def first_bias(self) -> float:
        z = self.positive_share / ((1 - self.positive_share) * (self.classes - 1))
        level: float = 2 * 0.5**self.power - 1
        right, wrong = self.scale * (level - self.margin), self.scale * (level + self.margin)
        # the root of a quadratic, in the form whose large terms do not cancel
        return math.log(2 * z) - wrong - math.log(1 - z + math.sqrt((1 - z) ** 2 + 4 * z * math.exp(right - wrong)))


__all__ = ["OneVsAll", "SphereFace2", "UniFace"]
