"""Cross-entropy on inverse powers of distances."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from torchlosses.card import Card
from torchlosses.hyperparameters import real
from torchlosses.losses.classification.softmax import CrossEntropy
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets


class Harmonic(CrossEntropy):
    r"""Harmonic loss: cross-entropy of ``p_c`` proportional to ``distance_c ** -exponent``.

    The scores are minus distances to the class centres, by any metric: ``euclidean(x, w)``, ``distance(x, w, "manhattan")``,
    a plain tensor. It does not depend on the common scale of features and centres, and is 0 exactly on the own centre.

    Arguments:
        exponent: of the distance, > 0; about the square root of the number of features, up to twice that number.
        label_smoothing, smoothing: as :class:`CrossEntropy`.

    A distance of 0 counts as the smallest positive number, with gradient 0.

    >>> import torch, torchlosses as tl
    >>> x, w = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    >>> tl.Harmonic(exponent=1.0)(tl.euclidean(x, w), torch.tensor([0]))
    tensor(0.2877)
    >>> tl.Harmonic(exponent=1.0).predict(tl.distance(x, w, "manhattan"))
    tensor([[0.7500, 0.2500]])
    """

    card: ClassVar[Card] = Card(
        title="Harmonic Loss Trains Interpretable AI Models",
        year=2025,
        identifier="arXiv:2502.01628",
        family="classification",
        formula=r"-\log\frac{d_y^{-n}}{\sum_j d_j^{-n}}",
        purpose="Class weights that are centres of their classes, with a finite optimum.",
        scores="euclidean",
        aliases=("HarmonicLoss", "DistLayer", "harmonic max"),
        cost="O(BL) beside the distances",
        equals=("CrossEntropy on distance(...).minus_log() * exponent",),
        note="Released code raises the squared distance plus 1e-4 to its n: exponent=2n on distance(x, w, eps=1e-4).",
    )

    exponent: float = real(1.0, "power of the distance", above=0, search=(1.0, 64.0, "log"))

    def _scores(self, scores: Scores | Tensor, targets: Targets | Tensor) -> Scores:
        return as_scores(scores).minus_log() * self.exponent

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The harmonic probabilities (..., L) of minus distances."""
        return super().predict(as_scores(scores).minus_log() * self.exponent)
