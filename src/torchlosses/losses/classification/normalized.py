"""Losses divided by their sum over all labels, which makes any of them robust; and their sums with passive losses."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import choice, flag, real
from torchlosses.losses.classification.target_probability import (
    Focal,
    GeneralizedCrossEntropy,
    MeanAbsoluteError,
    TargetProbability,
    log_odds,
    log_probabilities,
)
from torchlosses.targets import Targets

TITLE = "Normalized Loss Functions for Deep Learning with Noisy Labels"


class Normalized(TargetProbability):
    r"""Mixin that divides a target-probability loss by its sum over all labels: ``psi(p_y) / sum_k psi(p_k)``, in [0, 1].

    Name it before the loss. Soft targets stand in the numerator alone: ``sum_k q_k psi(p_k)``.

    >>> import torch, torchlosses as tl
    >>> class NormalizedAGCE(tl.Normalized, tl.AsymmetricGCE):
    ...     pass
    >>> NormalizedAGCE()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1441)
    """

    summary: ClassVar[tuple[str, ...]] = ("target", "rest", "each")
    copies = 12.0

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        return self.ratio(scores, targets)

    def ratio(self, scores: Tensor, targets: Block) -> Tensor:
        """The rule's value (b,)."""
        each = self.transform(*log_probabilities(scores, targets))
        return share(targets.sum(targets.probability * each), targets.sum(each))

    def each(self, log_p: Tensor) -> Tensor:
        return self.transform(log_p, (-log_p.expm1()).clamp(min=torch.finfo(log_p.dtype).tiny).log())

    def streamed(self, row: Summary) -> Tensor:
        """The same from a row's numbers."""
        own = self.transform(*log_odds(row.target, row.rest))
        return share(own, row.each.maximum(own))  # the row's own term is part of the sum, however that is rounded

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        return self.streamed(row)


def share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole; 0 where the whole is 0: one column has all the probability."""
    some = whole > 0
    return torch.where(some, part / torch.where(some, whole, 1.0), 0.0)


class NormalizedCrossEntropy(Normalized):
    r"""Normalized cross-entropy ``log p_y / sum_k log p_k``: bounded, so robust to wrong labels.

    With one right column it streams: the sum is ``C log sum exp(s) - sum_k s_k``. It fits slowly on its own; add a passive
    loss (:class:`ActivePassive`).

    >>> import torch, torchlosses as tl
    >>> tl.NormalizedCrossEntropy()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.0563)
    """

    card: ClassVar[Card] = Card(
        title=TITLE,
        year=2020,
        identifier="arXiv:2006.13554",
        family="classification",
        formula=r"\frac{\log p_y}{\sum_k\log p_k}",
        purpose="Classification with wrong labels: the active half of an active-passive loss.",
        tasks=("classification",),
        aliases=("NCE", "NCELoss", "NormalizedCrossEntropyLoss"),
        equals=("ActivePassive(beta=0)",),
    )
    summary = ("target", "rest", "total")

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        return -log_p

    def ratio(self, scores: Tensor, targets: Block) -> Tensor:
        each = targets.logsumexp(scores)[:, None] - scores
        if not targets.has_index:
            return share(targets.sum(targets.probability * each), targets.sum(each))
        row = Summary(scores, targets)
        own = -log_odds(row.target, row.rest)[0]
        return share(own, targets.sum(each).maximum(own))

    def streamed(self, row: Summary) -> Tensor:
        own = -log_odds(row.target, row.rest)[0]
        return share(own, (row.columns * (row.target + own) - row.total).maximum(own))


class NormalizedFocal(Normalized, Focal):
    r"""Normalized focal loss: :class:`Focal` over its sum over all labels.

    Arguments:
        gamma: focusing exponent, >= 0; 0 is :class:`NormalizedCrossEntropy`.
        detach_weight: no gradient through the factors ``(1 - p_k)^gamma``, above and below; the released code has it so.

    >>> import torch, torchlosses as tl
    >>> tl.NormalizedFocal(gamma=0.5)(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.0215)
    """

    card: ClassVar[Card] = Card(
        title=TITLE,
        year=2020,
        identifier="arXiv:2006.13554",
        family="classification",
        formula=r"\frac{(1-p_y)^\gamma\log p_y}{\sum_k(1-p_k)^\gamma\log p_k}",
        purpose="Classification with wrong labels: the active half of an active-passive loss.",
        tasks=("classification",),
        aliases=("NFL", "NFLLoss", "NormalizedFocalLoss"),
        detached="nothing; the focusing factors with detach_weight=True",
        equals=("NormalizedCrossEntropy at gamma=0",),
    )
    gamma = 0.5


class NormalizedGeneralizedCrossEntropy(Normalized, GeneralizedCrossEntropy):
    r"""Normalized generalized cross-entropy ``(1 - p_y^q) / (C - sum_k p_k^q)``.

    Arguments:
        q: in (0, 1]; 1 is :class:`NormalizedMeanAbsoluteError`.

    >>> import torch, torchlosses as tl
    >>> tl.NormalizedGeneralizedCrossEntropy()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.0989)
    """

    card: ClassVar[Card] = Card(
        title=TITLE,
        year=2020,
        identifier="arXiv:2006.13554",
        family="classification",
        formula=r"\frac{1-p_y^q}{C-\sum_k p_k^q}",
        purpose="Classification with wrong labels: the active half of an active-passive loss.",
        tasks=("classification",),
        aliases=("NGCE", "NGCELoss"),
        equals=("NormalizedMeanAbsoluteError at q=1",),
        note="The paper has q=0.1 for 10 classes and 0.7 for 100.",
    )


class NormalizedMeanAbsoluteError(Normalized, MeanAbsoluteError):
    r"""Normalized mean absolute error ``(1 - p_y) / (C - 1)``, which is normalized reverse cross-entropy as well.

    >>> import torch, torchlosses as tl
    >>> tl.NormalizedMeanAbsoluteError()(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
    tensor(0.1065)
    """

    card: ClassVar[Card] = Card(
        title=TITLE,
        year=2020,
        identifier="arXiv:2006.13554",
        family="classification",
        formula=r"\frac{1-p_y}{C-1}",
        purpose="MeanAbsoluteError on the scale of the other normalized losses.",
        aliases=("NMAE", "NRCE", "NormalizedReverseCrossEntropy"),
        note="Released code differs by factors: NMAE is half of this, NRCE multiplies where it should divide.",
    )
    summary = ("target", "rest")

    def streamed(self, row: Summary) -> Tensor:
        return share(log_odds(row.target, row.rest)[1].exp(), row.columns - 1)


class ActivePassive(Normalized):
    r"""Active passive loss: ``alpha`` times a normalized loss plus ``beta`` times one that only pushes wrong labels down.

    Arguments:
        active: 'cross-entropy' (NCE), 'focal' (NFL) or 'generalized' (NGCE).
        passive: 'mae' (``1 - p_y``) or 'reverse' (reverse cross-entropy, ``-log(1e-4) (1 - p_y)``).
        alpha, beta: factors of the active and the passive part, >= 0.
        gamma: focusing exponent of 'focal'. q: exponent of 'generalized'.
        detach_weight: no gradient through the focusing factors, as in the released code.

    Other pairs are sums of values: ``NormalizedFocal()(s, t) + AsymmetricGCE()(s, t)``.

    >>> import torch, torchlosses as tl
    >>> tl.ActivePassive()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1755)
    """

    card: ClassVar[Card] = Card(
        title=TITLE,
        year=2020,
        identifier="arXiv:2006.13554",
        family="classification",
        formula=r"\alpha\,\frac{\psi(p_y)}{\sum_k\psi(p_k)}+\beta A\,(1-p_y)",
        purpose="Classification with many wrong labels: a bounded active loss that a passive one helps to fit.",
        tasks=("classification",),
        aliases=("APL", "ActivePassiveLoss", "NCEandRCE", "NCEandMAE", "NFLandRCE", "NFLandMAE", "NGCEandRCE"),
        detached="nothing; the focusing factors with detach_weight=True",
        note="The paper has alpha=1, beta=1 for 10 classes, alpha=10, beta=0.1 (1 with 'mae') for 100.",
    )
    active: str = choice("cross-entropy", "the normalized loss", options=("cross-entropy", "focal", "generalized"))
    passive: str = choice("mae", "the passive loss", options=("mae", "reverse"))
    alpha: float = real(1.0, "factor of the active part", low=0, search=(0.1, 50.0, "log"))
    beta: float = real(1.0, "factor of the passive part", low=0, search=(0.01, 100.0, "log"))
    gamma: float = real(0.5, "focusing exponent", low=0)
    q: float = real(0.7, "exponent of the generalized part", above=0, high=1)
    detach_weight: bool = flag(False, "no gradient through the focusing factor")

    def setup(self) -> None:
        self.normalized: Normalized = NormalizedCrossEntropy()
        if self.active == "focal":
            self.normalized = NormalizedFocal(gamma=self.gamma, detach_weight=self.detach_weight)
        elif self.active == "generalized":
            self.normalized = NormalizedGeneralizedCrossEntropy(q=self.q)
        self._factor = self.beta * (-math.log(1e-4) if self.passive == "reverse" else 1.0)

    def streams(self, targets: Targets) -> tuple[str, ...]:
        return self.normalized.streams(targets)

    def each(self, log_p: Tensor) -> Tensor:
        return self.normalized.each(log_p)

    def ratio(self, scores: Tensor, targets: Block) -> Tensor:
        if targets.has_index:
            row = Summary(scores, targets)
            wrong = log_odds(row.target, row.rest)[1].exp()
        else:
            wrong = targets.sum(targets.probability * log_probabilities(scores, targets)[1].exp())
        return self.alpha * self.normalized.ratio(scores, targets) + self._factor * wrong

    def streamed(self, row: Summary) -> Tensor:
        wrong = log_odds(row.target, row.rest)[1].exp()
        return self.alpha * self.normalized.streamed(row) + self._factor * wrong
