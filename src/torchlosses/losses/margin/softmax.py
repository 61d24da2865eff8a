"""The rule of margin softmax: cross-entropy on scaled cosines whose right column is made harder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import flag, real
from torchlosses.loss import RowLoss
from torchlosses.targets import Targets


class Margins(RowLoss):
    """Cross-entropy on cosines times a strength, the right column's cosine transformed, perhaps the wrong ones too.

    What :meth:`transform`, :meth:`negatives`, :meth:`factor` and :meth:`strength` need beside cosines and targets they
    name as keywords: fields of :meth:`prepare`, ``query_norm``, or what ``targets.given`` attached.
    """

    accepts = ("index",)
    summary = ("target", "rest")
    detach_margin: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        asked = {
            p.name: p.default is inspect.Parameter.empty
            for method in (cls.transform, cls.negatives, cls.factor, cls.strength)
            for p in inspect.signature(method).parameters.values()
            if p.kind == inspect.Parameter.KEYWORD_ONLY
        }
        cls.fields_needed |= frozenset(name for name, needed in asked.items() if needed)
        cls.fields_optional |= frozenset(name for name, needed in asked.items() if not needed)

    # --- what subclasses define ---------------------------------------------------------------------------------

    def transform(self, cosine: Tensor, targets: Block, *args: Any, **fields: Any) -> Tensor:
        """The right column's cosine (b,) with its margin."""
        raise NotImplementedError

    def negatives(self, cosines: Tensor, right: Tensor, targets: Block, *args: Any, **fields: Any) -> Tensor:
        """All cosines (b, L) as the wrong columns have them; ``right`` (b,) is the right column's without margin."""
        return cosines

    def factor(self, *args: Any, **fields: Any) -> Tensor | float:
        """What the rule's scores hold beside the cosines: a number, or one per row (b,)."""
        return 1.0

    def strength(self, *args: Any, **fields: Any) -> Tensor | float:
        """What the cosines are multiplied with in the softmax: a number, or one per row (b,)."""
        return self.factor(**fields)

    def row(self, right: Tensor, rest: Tensor, **fields: Tensor) -> Tensor | Mapping[str, Tensor]:
        """What a row costs: cross-entropy of the right score against the log-sum-exp of the wrong ones."""
        return -functional.logsigmoid(right - rest)

    # --- the rule ----------------------------------------------------------------------------------------------

    @property
    def keeps_wrong(self) -> bool:
        """Whether the wrong columns stay as the engine makes them, so that the loss can be streamed."""
        cls = type(self)
        return cls.negatives is Margins.negatives and cls.strength is Margins.strength

    def streams(self, targets: Targets) -> tuple[str, ...]:
        return self.summary if self.keeps_wrong else ()

    def right(self, score: Tensor, targets: Block, **fields: Tensor) -> Tensor:
        """The right column's score (b,) with its margin, from the one without."""
        cosine = score / self.factor(**fields)
        moved = self.transform(cosine, targets, **fields)
        if self.detach_margin:
            moved = cosine + (moved - cosine).detach()
        return self.strength(**fields) * moved

    def wrong(self, scores: Tensor, targets: Block, **fields: Tensor) -> Tensor:
        """All scores (b, L) as the wrong columns have them."""
        if self.keeps_wrong:
            return scores
        cosines = scores / _column(self.factor(**fields))
        moved = self.negatives(cosines, targets.target(cosines), targets, **fields)
        if self.detach_margin:
            moved = cosines + (moved - cosines).detach()
        return _column(self.strength(**fields)) * moved

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        rest = targets.logsumexp(self.wrong(scores, targets, **fields), targets.negative)
        return self.row(self.right(targets.target(scores), targets, **fields), rest, **fields)

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        return self.row(self.right(row.target, targets, **fields), row.rest, **fields)


def _column(factor: Tensor | float) -> Tensor | float:
    """A factor per row as a column."""
    return factor[:, None] if isinstance(factor, Tensor) and factor.dim() else factor


class MarginSoftmax(Margins):
    r"""Base of margin softmax losses: cross-entropy on ``scale * cos`` with the right column's cosine transformed.

    Define :meth:`transform` for the right column and, where they change too, :meth:`negatives` for the wrong ones. What
    they need beside cosines and targets they name as keywords: numbers of the row from :meth:`prepare` (random, a
    statistic of the batch, a moving average), ``query_norm``, or what ``targets.given`` attached. Without
    :meth:`negatives` the loss streams on ``cosine(x, W)`` like cross-entropy. Feed it ``cosine(x, W)`` or plain cosines;
    :meth:`predict` is the softmax without margin. ``OneVsAll`` and ``UNPG`` put the same margins into other losses.

    Arguments:
        scale: factor on all cosines, > 0.
        detach_margin: the gradient is that of the cosines without margin.

    >>> import torch, torchlosses as tl
    >>> class Squared(tl.MarginSoftmax):
    ...     def transform(self, cosine, targets):
    ...         return cosine * cosine.abs()
    >>> Squared(scale=10.0)(torch.tensor([[0.5, 0.0]]), torch.tensor([0]))
    tensor(0.0789)
    """

    scale: float = real(64.0, "factor on all cosines", above=0, search=(8.0, 64.0, "log"))
    detach_margin: bool = flag(False, "the gradient of the cosines without margin")

    def factor(self, *args: Any, **fields: Any) -> Tensor | float:
        return self.scale

    def prescale(self) -> float | None:
        return self.scale


__all__ = ["MarginSoftmax", "Margins"]
