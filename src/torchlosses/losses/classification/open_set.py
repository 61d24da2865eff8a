"""Training for open-set recognition: reciprocal points."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import real
from torchlosses.loss import RowLoss
from torchlosses.lowering import working_dtype
from torchlosses.scores import Scores, as_scores, dot
from torchlosses.targets import Targets


class ReciprocalPoints(RowLoss):
    r"""Adversarial reciprocal point learning: a class is what lies far from its reciprocal point, within a learned radius.

    Feed it ``dot(features, points)``, the points (C, D) being yours to learn (they start near 0). It scores
    ``s_c = |f - r_c|^2 / D - <f, r_c>``, takes cross-entropy, and pulls the own point's mean squared distance below
    ``radius - 1``, which leaves the rest of space to the unknown. ``radius`` is a parameter of the loss.

    Arguments:
        weight: of the pull, >= 0.
        temperature: divides the scores, > 0.
        label_smoothing: share of the target mass spread over the wrong classes, in [0, 1].

    >>> import torch, torchlosses as tl
    >>> loss = tl.ReciprocalPoints()
    >>> loss(tl.dot(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])), torch.tensor([0]))
    tensor(0.3298, grad_fn=...)
    """

    card: ClassVar[Card] = Card(
        title="Adversarial Reciprocal Points Learning for Open Set Recognition",
        year=2021,
        identifier="arXiv:2103.00953",
        family="classification",
        formula=r"-\log\frac{e^{s_y/T}}{\sum_j e^{s_j/T}}+w\left[\tfrac1D|f-r_y|^2-R+1\right]_+",
        purpose="Recognise known classes and reject unknown ones.",
        scores="dot",
        aliases=("ARPL", "ARPLoss", "ReciprocalPointsLoss"),
        equals=("CrossEntropy on the reciprocal scores at weight=0",),
        note="The hinge lets the radius grow beyond the distance to the own point by 1, as the released code has it.",
    )
    accepts = ("index",)
    summary = ("lse", "target", "total")

    weight: float = real(0.1, "of the pull to the own point", low=0, search=(0.01, 1.0, "log"))
    temperature: float = real(1.0, "divides the scores", above=0)
    label_smoothing: float = real(0.0, "share of the mass on the wrong classes", low=0, high=1)

    def setup(self) -> None:
        self.radius = nn.Parameter(torch.zeros(()))

    def streams(self, targets: Targets) -> tuple[str, ...]:
        return self.summary if self.label_smoothing else ("lse", "target")

    def _scores(self, scores: Scores | Tensor, targets: Targets | Tensor) -> Scores:
        return self.reciprocal(scores) / self.temperature

    def reciprocal(self, scores: Scores | Tensor) -> Scores:
        """The scores of features against points, from their inner products."""
        features, points = _operands(as_scores(scores))
        width = features.shape[1]
        far = features.square().sum(-1, keepdim=True) / width
        away = points.square().sum(-1)[None, :] / width
        found = dot(features, points) * -(1 + 2 / width) + far + away
        return Scores(found.pieces, as_scores(scores).leading)

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        features, points = _operands(batch.recipe)
        return {"own_distance": (features - points[batch.targets.index]).square().mean(-1)}

    def from_summary(self, row: Summary, targets: Block, *, own_distance: Tensor, **fields: Tensor) -> Returned:
        value = row.lse - row.target
        if self.label_smoothing:
            wrong = (row.total - row.target) / (row.columns - 1).clamp(min=1)
            value = value + self.label_smoothing * (row.target - wrong)
        return value + self.weight * (own_distance - self.radius + 1).relu()

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """Probabilities (..., C) of the known classes."""
        return super().predict(self.reciprocal(scores) / self.temperature)


def _operands(recipe: Scores) -> tuple[Tensor, Tensor]:
    """Features and points behind inner products."""
    piece = recipe.pieces[0]
    if len(recipe.pieces) != 1 or piece.form != "dot" or piece.right is None or piece.private:
        raise TypeError("scores: expected ReciprocalPoints to be given dot(features, points), got other scores")
    kind = working_dtype(recipe.dtype)
    return piece.left.to(kind), piece.right.to(kind)
