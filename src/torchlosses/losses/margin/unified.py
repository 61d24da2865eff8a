"""In-batch pairs of different classes as further negatives of every row: UNPG."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome, Summary
from torchlosses.hyperparameters import real
from torchlosses.loss import RowLoss, Wrapper
from torchlosses.losses.margin.angular import CosFace
from torchlosses.losses.margin.softmax import Margins
from torchlosses.lowering import working_dtype
from torchlosses.scores import Scores
from torchlosses.targets import Targets
from torchlosses.unit import unit


class UNPG(Wrapper):
    r"""Unified negative pair generation: pairs of different classes within the batch join every row's denominator.

    The cosines of all pairs of rows with different labels, without outliers (those beyond ``whisker`` times the
    distance of the quartiles), stand once beside the wrong classes of each row. Gradients reach both of a pair. Takes
    ``cosine(x, W)``; the cosines of pairs are those of the rows of x that are not ignored.

    Arguments:
        loss: a margin softmax, such as ``ArcFace()``; by default ``CosFace(margin=0.5)``.
        whisker: how far beyond the quartiles a pair may lie, in distances of the quartiles, >= 0.

    >>> import torch, torchlosses as tl
    >>> x = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> tl.UNPG(tl.CosFace(margin=0.2, scale=4.0))(tl.cosine(x, torch.eye(2)), torch.tensor([0, 1]))
    tensor(0.7487)
    """

    card: ClassVar[Card] = Card(
        title="Unified Negative Pair Generation toward Well-discriminative Feature Space for Face Recognition",
        year=2022,
        identifier="arXiv:2203.11593",
        family="margin",
        formula=r"-\log\frac{e^{z_y}}{e^{z_y}+\sum_{j\ne y}e^{s\cos\theta_j}+\sum_{u\in N}e^{su}}",
        purpose="Face recognition with the negatives of classification and of metric learning at once.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("unified negative pair generation",),
        cost="O(BL + B^2)",
        equals=("the wrapped loss where all rows have one label",),
    )

    outermost = True
    loss: Margins
    whisker: float = real(1.5, "how far beyond the quartiles pairs are kept", low=0, search=(0.5, 2.0))

    def __init__(self, loss: RowLoss | None = None, **hyperparameters: Any) -> None:
        inner = CosFace(margin=0.5) if loss is None else loss
        if not isinstance(inner, Margins):
            raise TypeError(f"loss: expected a margin softmax such as ArcFace(), got {type(inner).__name__}")
        super().__init__(inner, **hyperparameters)

    @property
    def summary(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.loss.summary

    def streams(self, targets: Targets) -> tuple[str, ...]:
        return self.loss.streams(targets)

    def pairs(self, recipe: Scores, targets: Targets) -> Tensor:
        """Cosines of all kept pairs (N,)."""
        piece = recipe.pieces[0]
        if piece.right is None or len(recipe.pieces) != 1:
            raise TypeError("scores: UNPG compares features; expected cosine(x, W), got plain or concatenated scores")
        index = targets.rows["index"]
        x = unit(piece.left.to(working_dtype(recipe.dtype)))
        first, second = torch.triu_indices(x.shape[0], x.shape[0], 1, device=x.device)
        counted = index != targets.options["ignore_index"]
        kept = (index[first] != index[second]) & counted[first] & counted[second]
        similar = (x @ x.T)[first[kept], second[kept]]
        n = similar.shape[0]
        if not n:
            return similar
        ordered = similar.detach().sort().values
        low, high = ordered[n // 4], ordered[(3 * n) // 4]
        slack = self.whisker * (high - low)
        return similar[(similar >= low - slack) & (similar <= high + slack)]

    def _fields(self, recipe: Scores, targets: Targets) -> dict[str, Tensor]:
        if targets.kind != "classes":
            raise TypeError(f"targets: UNPG expected classes(), got {targets.kind}()")
        fields = super()._fields(recipe, targets)
        pairs = self.pairs(recipe, targets)
        strength = self.loss.strength(**fields)
        if isinstance(strength, Tensor) and strength.dim():
            raise TypeError(f"loss: UNPG needs one scale for all rows, {type(self.loss).__name__} has one per row")
        none = torch.full((1,), torch.finfo(pairs.dtype).min, dtype=pairs.dtype, device=pairs.device)
        return {**fields, "pairs": torch.cat([pairs * strength, none]).logsumexp(0)}

    def _joined(self, right: Tensor, rest: Tensor, fields: dict[str, Tensor]) -> Outcome:
        return Outcome.of(self.loss.row(right, torch.logaddexp(rest, fields["pairs"].to(rest.dtype)), **fields))

    def _evaluate(self, scores: Tensor, targets: Block, fields: dict[str, Tensor]) -> Outcome:
        rest = targets.logsumexp(self.loss.wrong(scores, targets, **fields), targets.negative)
        return self._joined(self.loss.right(targets.target(scores), targets, **fields), rest, fields)

    def _evaluate_summary(self, row: Summary, targets: Block, fields: dict[str, Tensor]) -> Outcome:
        return self._joined(self.loss.right(row.target, targets, **fields), row.rest, fields)


__all__ = ["UNPG"]
