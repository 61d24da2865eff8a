"""Squares of the raw scores, with cross-entropy or in its place."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.target_probability import log_odds


class Squentropy(RowLoss):
    r"""Squentropy: cross-entropy plus the mean square of the wrong columns' scores.

    Arguments:
        weight: factor of the squares, >= 0.

    A row of one column has no squares.

    >>> import torch, torchlosses as tl
    >>> tl.Squentropy()(torch.tensor([[2.0, 0.5, -0.5]]), torch.tensor([0]))
    tensor(0.5164)
    """

    card: ClassVar[Card] = Card(
        title="Cut your Losses with Squentropy",
        year=2023,
        identifier="arXiv:2302.03952",
        family="classification",
        formula=r"-\log p_y+\frac{w}{C-1}\sum_{j\ne y}s_j^2",
        purpose="Accuracy and calibration above cross-entropy without a new learning rate.",
        tasks=("classification",),
        aliases=("SquentropyLoss", "sqen"),
        equals=("CrossEntropy at weight=0",),
        note="Not shift invariant.",
    )
    accepts = ("index",)
    summary = ("target", "rest", "squares")

    weight: float = real(1.0, "factor of the squares", low=0, search=(0.1, 1.0))

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        wrong = (row.squares - row.target.square()) / (row.columns - 1).clamp(min=1)
        return self.weight * wrong - log_odds(row.target, row.rest)[0]

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        row = Summary(scores, targets)
        wrong = targets.mean(scores.square(), targets.negative)
        return self.weight * wrong - log_odds(row.target, row.rest)[0]


class RescaledSquare(RowLoss):
    r"""Rescaled square loss ``(k (s_y - M)^2 + sum over j != y of s_j^2) / C`` on raw scores.

    Arguments:
        k: factor of the right column's square, >= 0.
        M: the score that the right column should have.

    With few classes the paper has k = M = 1, with 1000 k = 15 and M = 30.

    >>> import torch, torchlosses as tl
    >>> tl.RescaledSquare()(torch.tensor([[2.0, 0.5, -0.5]]), torch.tensor([0]))
    tensor(0.5000)
    """

    card: ClassVar[Card] = Card(
        title="Evaluation of Neural Architectures Trained with Square Loss vs Cross-Entropy in Classification Tasks",
        year=2021,
        identifier="arXiv:2006.07322",
        family="classification",
        formula=r"\frac1C\left(k(s_y-M)^2+\sum_{j\ne y}s_j^2\right)",
        purpose="Classification by regression on the class codes, rescaled for many classes.",
        tasks=("classification",),
        aliases=("RescaledSquareLoss", "rescaled_mse", "square loss", "SquaredLoss"),
        cost="O(BL); on a linear head O(L D^2 + B D^2)",
        note="Not shift invariant. Public code takes k - 1.",
    )
    accepts = ("index",)
    summary = ("target", "squares")

    k: float = real(1.0, "factor of the right column's square", low=0, search=(1.0, 30.0, "log"))
    M: float = real(1.0, "the score that the right column should have", search=(1.0, 60.0, "log"))

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        return self._over_columns(row.target, row.squares - row.target.square(), row.columns)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        wrong = targets.sum(scores.square(), targets.negative)
        return self._over_columns(targets.target(scores), wrong, targets.count())

    def _over_columns(self, right: Tensor, wrong: Tensor, columns: Tensor) -> Tensor:
        return (self.k * (right - self.M).square() + wrong) / columns.clamp(min=1)
