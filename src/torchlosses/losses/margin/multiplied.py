"""Margins that multiply the angle: SphereFace-R, SphereFace and L-Softmax differ in the norms that logits keep."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.hyperparameters import real
from torchlosses.losses.margin.softmax import MarginSoftmax
from torchlosses.losses.margin.transforms import multiplied
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets


class SphereFaceR(MarginSoftmax):
    r"""SphereFace-R: a multiplied angle on the sphere, :math:`\psi(\theta) = (-1)^k\cos(m\theta) - 2k`.

    ``k = floor(m theta / pi)`` keeps the right column decreasing in the angle.

    Arguments:
        margin: factor on the angle, >= 1; any real number.
        scale: factor on all cosines, > 0.
        detach_margin: the gradient is that of the cosines without margin (the default here).

    >>> import torch, torchlosses as tl
    >>> tl.SphereFaceR(margin=1.5, scale=10.0)(torch.tensor([[0.8, 0.1]]), torch.tensor([0]))
    tensor(0.0091)
    """

    card: ClassVar[Card] = Card(
        title="SphereFace Revived: Unifying Hyperspherical Face Recognition",
        year=2022,
        identifier="arXiv:2109.05565",
        family="margin",
        formula=r"-\log\frac{e^{s\psi(\theta_y)}}{e^{s\psi(\theta_y)}+\sum_{j\ne y}e^{s\cos\theta_j}},\quad"
        r"\psi(\theta)=(-1)^k\cos(m\theta)-2k",
        purpose="SphereFace with stable training: unit features, a fixed scale and a detached margin.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("SphereFace-R v1", "SphereFaceR"),
        detached="the difference that the margin makes (detach_margin)",
        equals=("CrossEntropy on scaled cosines at margin=1",),
    )

    margin: float = real(1.7, "factor on the angle", low=1, search=(1.1, 2.0))
    scale = 30.0
    detach_margin = True

    def transform(self, cosine: Tensor, targets: Block, **fields: Any) -> Tensor:
        return multiplied(cosine, self.margin)


class SphereFace(SphereFaceR):
    r"""SphereFace (A-Softmax): a multiplied angle, logits that keep the norm of the features.

    The scores are ``|x_i| cos theta_ij``, the right one ``|x_i| psi(theta_iy)`` with :class:`SphereFaceR`'s psi; all
    differentiated.

    Arguments:
        margin: factor on the angle, >= 1; the paper's are integers.
        scale: a further factor, > 0.
        detach_margin: the gradient is that of the scores without margin.

    Feed it ``cosine(x, W)`` with raw features, or plain cosines and ``targets.given(query_norm=...)``.

    >>> import torch, torchlosses as tl
    >>> x, w = torch.tensor([[2.0, 1.0]]), torch.eye(2)
    >>> tl.SphereFace(margin=2)(tl.cosine(x, w), torch.tensor([0]))
    tensor(0.5368)
    """

    card: ClassVar[Card] = Card(
        title="SphereFace: Deep Hypersphere Embedding for Face Recognition",
        year=2017,
        identifier="arXiv:1704.08063",
        family="margin",
        formula=r"-\log\frac{e^{|x|\psi(\theta_y)}}{e^{|x|\psi(\theta_y)}+\sum_{j\ne y}e^{|x|\cos\theta_j}}",
        purpose="Embeddings with an angular margin, the first of the family.",
        tasks=("classification",),
        scores="cosine",
        aliases=("SphereFaceLoss", "A-Softmax", "angular softmax"),
    )

    margin: float = real(4.0, "factor on the angle", low=1, search=(1.5, 4.0))
    scale = 1.0
    detach_margin = False

    def lengths(self, recipe: Scores, query_norm: Tensor) -> Scores:
        """The scores with the norms that this loss keeps."""
        return recipe.times((self.scale * query_norm.clamp(min=1e-12))[:, None])

    def _scores(self, scores: Scores | Tensor, targets: Targets | Tensor) -> Scores:
        recipe = as_scores(scores)
        given = targets.fields.get("query_norm") if isinstance(targets, Targets) else None
        return self.lengths(recipe, recipe.query_norm if given is None else given.reshape(-1))

    def prescale(self) -> None:
        return None  # the scale stands in the factor of the row

    def factor(self, *, query_norm: Tensor, **fields: Any) -> Tensor:
        return self.scale * query_norm.clamp(min=1e-12)

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The softmax of the scores (..., L) with their norms, no margin."""
        recipe = as_scores(scores)
        return self.lengths(recipe, recipe.query_norm).tensor().softmax(-1)


class LargeMarginSoftmax(SphereFace):
    r"""L-Softmax: a multiplied angle, logits that keep the norms of features and of class weights.

    The scores are ``|x_i| |w_j| cos theta_ij``, the right one ``|x_i| |w_y| psi(theta_iy)``: an ordinary linear head.

    Arguments:
        margin: factor on the angle, >= 1; the paper's are integers.
        scale: a further factor, > 0.
        detach_margin: the gradient is that of the scores without margin.

    Feed it ``cosine(x, W)`` with raw features and weights.

    >>> import torch, torchlosses as tl
    >>> x, w = torch.tensor([[2.0, 1.0]]), 2 * torch.eye(2)
    >>> tl.LargeMarginSoftmax(margin=2)(tl.cosine(x, w), torch.tensor([0]))
    tensor(0.4088)
    """

    card: ClassVar[Card] = Card(
        title="Large-Margin Softmax Loss for Convolutional Neural Networks",
        year=2016,
        identifier="arXiv:1612.02295",
        family="margin",
        formula=r"-\log\frac{e^{|x||w_y|\psi(\theta_y)}}{e^{|x||w_y|\psi(\theta_y)}+\sum_{j\ne y}e^{|x||w_j|\cos\theta_j}}",
        purpose="Classification with an angular margin on an ordinary linear head.",
        tasks=("classification",),
        scores="cosine",
        aliases=("L-Softmax", "LSoftmax", "LargeMarginSoftmaxLoss"),
        equals=("CrossEntropy on linear(x, W) at margin=1",),
    )

    def lengths(self, recipe: Scores, query_norm: Tensor) -> Scores:
        return super().lengths(recipe, query_norm).times(recipe.key_norm.clamp(min=1e-12)[None, :])

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"target_norm": batch.recipe.key_norm[batch.targets.index]}

    def factor(self, *, query_norm: Tensor, target_norm: Tensor, **fields: Any) -> Tensor:  # type: ignore[override]
        return super().factor(query_norm=query_norm) * target_norm.clamp(min=1e-12)


__all__ = ["LargeMarginSoftmax", "SphereFace", "SphereFaceR"]
