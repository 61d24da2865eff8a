"""What a rule returns, and the few numbers of a row that summary rules are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

import torch
from torch import Tensor

from torchlosses.engine.block import Block
from torchlosses.lazy import lazy

Term = tuple[Tensor, Tensor | None]
Returned = Union[Tensor, tuple[Tensor, Tensor], Mapping[str, Tensor | tuple[Tensor, Tensor]], "Outcome"]


@dataclass
class Outcome:
    """Terms of a block of rows and state updates.

    Arguments:
        terms: name -> (value (b,), count (b,) or None). A row with count 0 is empty.
        updates: name -> (b, ...) tensors, committed once per call in training mode.
    """

    terms: dict[str, Term]
    updates: dict[str, Tensor] = field(default_factory=dict)

    def settled(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The terms once every one of them has its count."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (value, count) in self.terms.items():
            assert count is not None
            found[name] = value, count
        return found

    def detached(self) -> Outcome:
        """The same numbers without their graph."""
        terms = {n: (v.detach(), None if c is None else c.detach()) for n, (v, c) in self.terms.items()}
        return Outcome(terms, {n: u.detach() for n, u in self.updates.items()})

    @staticmethod
    def of(returned: Returned) -> Outcome:
        """Reads the short forms: a value, (value, count), or named terms."""
        if isinstance(returned, Outcome):
            return returned
        if isinstance(returned, Mapping):
            return Outcome({name: _term(t) for name, t in returned.items()})
        return Outcome({"loss": _term(returned)})


def _term(returned: Tensor | tuple[Tensor, Tensor]) -> Term:
    if isinstance(returned, tuple):
        value, count = returned
        return value, count.detach().to(value.dtype)
    return returned, None


SUMMARY = ("lse", "target", "rest", "total", "squares", "spread", "each", "top")


class Summary:
    """Numbers of a row (each (b,)): what summary rules may depend on.

    lse: log-sum-exp of all existing scores. target: sum of probability times score (the right column's score).
    rest: log-sum-exp of the wrong columns. total, squares: sum of scores and of their squares. spread: the sum of
    squared deviations from the mean score. top: the largest.
    near, far: log-sum-exp over the right columns of the first of the loss's slopes times the score, over the wrong ones of
    the second; streamed only. each: sum of the loss's own function of log p (``RowLoss.each``); streamed only.
    mass: total target weight, columns: number of existing columns; both constants.
    """

    near: Tensor
    far: Tensor
    each: Tensor

    def __init__(self, scores: Tensor, targets: Block) -> None:
        self._scores, self._targets = scores, targets

    @lazy
    def lse(self) -> Tensor:
        found = self._targets.logsumexp(self._scores)
        return torch.where(found == -torch.inf, 0.0, found)  # rows without a cell

    @lazy
    def target(self) -> Tensor:
        if self._targets.has_index:
            return self._targets.target(self._scores)
        return (self._targets.probability * self._scores).sum(-1)

    @lazy
    def rest(self) -> Tensor:
        return self._targets.logsumexp(self._scores, self._targets.negative)

    @lazy
    def total(self) -> Tensor:
        return self._targets.sum(self._scores)

    @lazy
    def squares(self) -> Tensor:
        return self._targets.sum(self._scores * self._scores)

    @lazy
    def spread(self) -> Tensor:
        centred = self._scores - self._targets.mean(self._scores)[:, None]
        return self._targets.sum(centred * centred)

    @lazy
    def top(self) -> Tensor:
        return self._targets.max(self._scores)

    @lazy
    def mass(self) -> Tensor:
        if self._targets.has_index:
            return self._targets.counted.to(self._scores.dtype)
        return self._targets.probability.sum(-1)

    @lazy
    def columns(self) -> Tensor:
        return self._targets.count()


class GivenSummary(Summary):
    """A summary whose numbers were streamed; the rule's derivative is taken with respect to them."""

    def __init__(self, given: dict[str, Tensor], mass: Tensor, targets: Block) -> None:
        self._targets = targets
        for name, value in {**given, "mass": mass}.items():
            setattr(self, name, value)


def finite(x: Tensor) -> Tensor:
    """Zero where not finite, in value and gradient."""
    ok = torch.isfinite(x.detach())
    return torch.where(ok, x, 0.0)


def _of(coefficient: dict[str, Tensor], name: str) -> Tensor:
    """A term's coefficient; the key '*' stands for all terms."""
    return coefficient[name] if name in coefficient else coefficient["*"]


def weigh(outcome: Outcome, coefficient: dict[str, Tensor] | None) -> Tensor:
    """Sum over terms and rows of coefficient times value."""
    parts = [v.sum() if coefficient is None else (v * _of(coefficient, n)).sum() for n, (v, _) in outcome.terms.items()]
    return torch.stack(parts).sum()
