"""Losses made for wrong labels: bounded or asymmetric in the probability of the right column."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import data, real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.consistency import log_softmax_of_views, mixture
from torchlosses.losses.classification.target_probability import (
    LOG_ZERO,
    GeneralizedCrossEntropy,
    MeanAbsoluteError,
    TargetProbability,
    comp_sum,
    log_odds,
    log_probabilities,
)
from torchlosses.losses.ids import checked_ids, last_rows
from torchlosses.scores import Scores
from torchlosses.targets import Targets


class SymmetricCrossEntropy(TargetProbability):
    r"""Cross-entropy plus reverse cross-entropy, ``-alpha log p_y + beta A (1 - p_y)``.

    Arguments:
        alpha: factor of cross-entropy, >= 0.
        beta: factor of reverse cross-entropy, >= 0.
        floor: the probability that stands for a label's 0 in the reverse part, in (0, 1); ``A = -log floor``.

    >>> import torch, torchlosses as tl
    >>> tl.SymmetricCrossEntropy()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(1.1106)
    """

    card: ClassVar[Card] = Card(
        title="Symmetric Cross Entropy for Robust Learning with Noisy Labels",
        year=2019,
        identifier="arXiv:1908.06112",
        family="classification",
        formula=r"-\alpha\log p_y + \beta A\,(1-p_y)",
        purpose="Classification with wrong labels: cross-entropy that learns, a bounded part that resists.",
        tasks=("classification",),
        aliases=("SCE", "SCELoss", "ReverseCrossEntropy", "RCE", "SL"),
        equals=("CrossEntropy at alpha=1, beta=0", "reverse cross-entropy at alpha=0, beta=1"),
        note="The paper has alpha 0.1, beta 1 for 10 classes and alpha 6, beta 0.1 for 100.",
    )

    alpha: float = real(0.1, "factor of cross-entropy", low=0, search=(0.01, 10.0, "log"))
    beta: float = real(1.0, "factor of reverse cross-entropy", low=0, search=(0.1, 10.0, "log"))
    floor: float = real(1e-4, "the probability that stands for 0", above=0, below=1)

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        return -self.beta * math.log(self.floor) * log_other.exp() - self.alpha * log_p


class AsymmetricGCE(TargetProbability):
    r"""Asymmetric generalized cross-entropy ``((a + 1)^q - (a + p_y)^q) / q``.

    Arguments:
        a: > 0; larger is more asymmetric, hence more robust, when q < 1.
        q: > 0.

    >>> import torch, torchlosses as tl
    >>> tl.AsymmetricGCE()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.2313)
    """

    card: ClassVar[Card] = Card(
        title="Asymmetric Loss Functions for Learning with Noisy Labels",
        year=2021,
        identifier="arXiv:2106.03110",
        family="classification",
        formula=r"\frac{(a+1)^q-(a+p_y)^q}{q}",
        purpose="Classification with wrong labels, as long as right ones are the largest group.",
        tasks=("classification",),
        aliases=("AGCE", "AGCELoss", "asymmetric generalized cross entropy"),
        equals=("MeanAbsoluteError at q=1",),
    )

    a: float = real(1.0, "offset of the probability", above=0, search=(0.1, 10.0, "log"))
    q: float = real(2.0, "exponent", above=0, search=(0.1, 4.0, "log"))

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        lost = (-log_other.exp() / (self.a + 1)).log1p()  # log((a + p) / (a + 1))
        return -math.pow(self.a + 1, self.q) * (self.q * lost).expm1() / self.q


class AsymmetricUnhinged(TargetProbability):
    r"""Asymmetric unhinged loss ``((a - p_y)^q - (a - 1)^q) / q``.

    Arguments:
        a: > 1.
        q: > 0.

    >>> import torch, torchlosses as tl
    >>> tl.AsymmetricUnhinged()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1264)
    """

    card: ClassVar[Card] = Card(
        title="Asymmetric Loss Functions for Learning with Noisy Labels",
        year=2021,
        identifier="arXiv:2106.03110",
        family="classification",
        formula=r"\frac{(a-p_y)^q-(a-1)^q}{q}",
        purpose="Classification with wrong labels, as long as right ones are the largest group.",
        tasks=("classification",),
        aliases=("AUL", "AULLoss", "asymmetric unhinged loss"),
        equals=("MeanAbsoluteError at q=1",),
    )

    a: float = real(1.5, "what the probability is taken from", above=1, search=(1.1, 10.0, "log"))
    q: float = real(0.9, "exponent", above=0, search=(0.1, 4.0, "log"))

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        more = (log_other.exp() / (self.a - 1)).log1p()  # log((a - p) / (a - 1))
        return math.pow(self.a - 1, self.q) * (self.q * more).expm1() / self.q


class AsymmetricExponential(TargetProbability):
    r"""Asymmetric exponential loss ``exp(-p_y / a)``.

    Arguments:
        a: > 0; larger is closer to MeanAbsoluteError.

    >>> import torch, torchlosses as tl
    >>> tl.AsymmetricExponential()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.7456)
    """

    card: ClassVar[Card] = Card(
        title="Asymmetric Loss Functions for Learning with Noisy Labels",
        year=2021,
        identifier="arXiv:2106.03110",
        family="classification",
        formula=r"e^{-p_y/a}",
        purpose="Classification with wrong labels, as long as right ones are the largest group.",
        tasks=("classification",),
        aliases=("AEL", "AELLoss", "asymmetric exponential loss"),
        note="At p_y = 1 the value is exp(-1/a), not 0.",
    )

    a: float = real(3.0, "scale of the probability", above=0, search=(0.5, 10.0, "log"))

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        return (-log_p.exp() / self.a).exp()


class TruncatedGCE(GeneralizedCrossEntropy):
    r"""Truncated generalized cross-entropy: rows with ``p_y <= k`` are worth the constant ``(1 - k^q) / q``.

    Arguments:
        q: as :class:`GeneralizedCrossEntropy`, in (0, 1].
        k: probability up to which a row gets no gradient, in [0, 1).

    :class:`PrunedGCE` decides once in a while instead, for each example.

    >>> import torch, torchlosses as tl
    >>> tl.TruncatedGCE(k=0.5, reduction="none")(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
    tensor([0.1215, 0.5492])
    """

    card: ClassVar[Card] = Card(
        title="Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
        year=2018,
        identifier="arXiv:1805.07836",
        family="classification",
        formula=r"\min\left(\frac{1-p_y^q}{q},\frac{1-k^q}{q}\right)",
        purpose="Wrong labels: rows that the model finds very unlikely give no gradient.",
        aliases=("TruncatedLoss", "truncated Lq loss", "TGCE"),
        detached="the choice of rows",
        equals=("GeneralizedCrossEntropy(q) at k=0",),
        note="From scratch, rows start below k: train without truncation (k=0) for some epochs first.",
    )

    k: float = real(0.5, "probability up to which a row is constant", low=0, below=1, search=(0.01, 0.5, "log"))

    @property
    def constant(self) -> float:
        """The value of a truncated row."""
        return (1 - math.pow(self.k, self.q)) / self.q

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        if not self.k:
            return super().transform(log_p, log_other)
        return torch.where(log_p > math.log(self.k), super().transform(log_p, log_other), self.constant)


class PrunedGCE(TruncatedGCE):
    r"""Truncated generalized cross-entropy by pruning: ``v_i ((1 - p_y^q)/q - (1 - k^q)/q)``, ``v_i`` kept per example.

    Call :meth:`prune` every few epochs: examples whose ``p_y <= k`` get ``v_i = 0`` until the next time. In between the
    loss is smooth: the paper's alternating search.

    Arguments:
        q, k: as :class:`TruncatedGCE`.
        examples: number of training examples; ids lie in [0, examples).

    Needs ``targets.given(ids=...)`` (B,) in training mode; without ids (evaluation) every row counts.

    >>> import torch, torchlosses as tl
    >>> loss = tl.PrunedGCE(examples=2)
    >>> scores, targets = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), tl.classes(torch.tensor([0, 0]))
    >>> loss.prune(scores, targets.given(ids=torch.tensor([0, 1])))
    >>> loss.kept
    tensor([ True, False])
    """

    card: ClassVar[Card] = Card(
        title="Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
        year=2018,
        identifier="arXiv:1805.07836",
        family="classification",
        formula=r"v_i\left(\frac{1-p_y^q}{q}-\frac{1-k^q}{q}\right)",
        purpose="Wrong labels: examples that the model finds very unlikely are left out until the next pruning.",
        aliases=("TruncatedLoss with pruning", "ACS"),
        detached="which examples are kept",
        note="A pruned example is worth 0 and stays in the mean's denominator; kept ones may be negative.",
    )
    accepts = ("index",)

    examples: int = data("number of training examples, an integer >= 1")

    kept: Tensor

    def setup(self) -> None:
        if isinstance(self.examples, bool) or not isinstance(self.examples, int) or self.examples < 1:
            raise ValueError(f"examples: expected an integer >= 1, got {self.examples!r}")
        self.register_buffer("kept", torch.ones(self.examples, dtype=torch.bool))

    @torch.no_grad()
    def prune(self, scores: Scores | Tensor, targets: Targets) -> None:
        """Decides anew for the examples ``targets.given(ids=...)`` of these rows; ignored rows keep their state."""
        ids = self._checked(targets.fields.get("ids"))
        right = MeanAbsoluteError(reduction="none")(scores, targets).reshape(-1) < 1 - self.k
        counted = targets.rows["index"] != targets.options["ignore_index"]
        ids, right = ids[counted], right[counted]
        rows = last_rows(ids)
        self.kept[ids[rows]] = right[rows]

    def _checked(self, ids: Tensor | None) -> Tensor:
        if ids is None:
            raise TypeError(
                "ids: PrunedGCE needs it in training mode, one entry per row; attach it with targets.given(ids=tensor)"
            )
        return checked_ids(ids.reshape(-1), self.examples)

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        if "ids" not in fields and not self.training:
            return {"keep": torch.ones(batch.rows, dtype=torch.bool, device=batch.device)}
        return {"keep": self.kept[self._checked(fields.get("ids"))]}

    def from_summary(self, row: Summary, targets: Block, *, keep: Tensor, **fields: Tensor) -> Returned:
        value = comp_sum(log_odds(row.target, row.rest)[0], 1 + self.q) - self.constant
        return torch.where(keep, value, 0.0)

    def rule(self, scores: Tensor, targets: Block, *, keep: Tensor, **fields: Tensor) -> Returned:
        return self.from_summary(Summary(scores, targets), targets, keep=keep)


class JensenShannon(TargetProbability):
    r"""Generalized Jensen-Shannon divergence of target and softmax, scaled to lie between cross-entropy and MAE.

    ``[pi KL(q | m) + (1 - pi) KL(p | m)] / (-(1 - pi) log(1 - pi))`` with ``m = pi q + (1 - pi) p``.

    Arguments:
        pi: weight of the target, in (0, 1); towards 0 it is cross-entropy, towards 1 MeanAbsoluteError.

    With one right column it depends on p_y alone and streams. ``targets.given(views=scores)`` (B, V, C) adds augmented
    views that share the weight ``1 - pi`` with the scores: the divergence of the target and all of them.

    >>> import torch, torchlosses as tl
    >>> tl.JensenShannon()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1247)
    """

    card: ClassVar[Card] = Card(
        title="Generalized Jensen-Shannon Divergence Loss for Learning with Noisy Labels",
        year=2021,
        identifier="arXiv:2105.04522",
        family="classification",
        formula=r"\frac{\pi\,\mathrm{KL}(q\|m)+(1-\pi)\,\mathrm{KL}(p\|m)}{-(1-\pi)\log(1-\pi)},\quad m=\pi q+(1-\pi)p",
        purpose="Classification with wrong labels; one knob between fast fitting and robustness.",
        tasks=("classification",),
        aliases=("JensenShannonLoss", "JSLoss", "JS", "JSWithConsistency"),
    )

    pi: float = real(0.5, "weight of the target", above=0, below=1, search=(0.1, 0.9))

    @property
    def _scale(self) -> float:
        return -1 / ((1 - self.pi) * math.log1p(-self.pi))

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        left = 1 - self.pi
        p, other = log_p.exp(), log_other.exp()
        # log of the mixture's probability of the right column, pi + (1 - pi) p
        near = left * other < 0.5
        log_mixture = torch.where(
            near,
            (-left * torch.where(near, other, 0.0)).log1p(),
            torch.logaddexp(log_p + math.log(left), log_p.new_tensor(math.log(self.pi))),
        )
        # KL(p | m) = -p log1p(pi other / p) - other log(1 - pi), the two of one size for small pi
        ratio = functional.softplus(log_other - log_p + math.log(self.pi), threshold=80.0)
        return -self._scale * (self.pi * log_mixture + left * (p * ratio + other * math.log1p(-self.pi)))

    def streams(self, targets: Targets) -> tuple[str, ...]:
        return () if "views" in targets.fields else super().streams(targets)

    def rule(self, scores: Tensor, targets: Block, *, views: Tensor | None = None, **fields: Tensor) -> Returned:
        if views is not None:
            return self._consistent(log_softmax_of_views(scores, views, targets), targets)
        if targets.has_index:
            return self.from_summary(Summary(scores, targets), targets)
        log_p, _ = log_probabilities(scores, targets)
        q, left = targets.probability, 1 - self.pi
        some = q > 0
        log_q = torch.where(some, q, 1.0).log()
        log_mixture = torch.where(
            some, torch.logaddexp(math.log(self.pi) + log_q, math.log(left) + log_p), math.log(left) + log_p
        )
        gap = self.pi * q * (log_q - log_mixture) + left * log_p.exp() * (log_p - log_mixture)
        return self._scale * targets.sum(gap)

    def _consistent(self, log_p: Tensor, targets: Block) -> Tensor:
        """The divergence of the target and several predictions (b, V, L)."""
        q, each = targets.probability[:, None], (1 - self.pi) / log_p.shape[1]
        some = q > 0
        log_q = torch.where(some, q, 1.0).log()
        weight = log_p.new_tensor([self.pi] + [each] * log_p.shape[1])
        # where q is 0 its share of the mixture is 0
        shares = torch.cat([torch.where(some, log_q, LOG_ZERO), log_p], 1)
        log_mixture = mixture(shares, weight.log())[:, None]
        gap = self.pi * q * (log_q - log_mixture) + each * (log_p.exp() * (log_p - log_mixture)).sum(1, keepdim=True)
        return self._scale * targets.sum(gap.squeeze(1))


class RobustLog(RowLoss):
    r"""Robust log loss: ``log((a + 1)/a) - log(1 + p_y/a) + mean over j != y of log(1 + p_j/a)``.

    Arguments:
        alpha: > 0; larger is closer to MeanAbsoluteError.

    >>> import torch, torchlosses as tl
    >>> tl.RobustLog()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1741)
    """

    card: ClassVar[Card] = Card(
        title="Robust Loss Functions for Learning Multi-class Classifiers",
        year=2018,
        identifier="IEEE SMC 2018, Kumar and Sastry",
        family="classification",
        formula=r"\log\frac{\alpha+1}{\alpha+p_y}+\frac{1}{C-1}\sum_{j\ne y}\log\left(1+\frac{p_j}{\alpha}\right)",
        purpose="Classification with wrong labels; the sum of its values over all labels is constant.",
        tasks=("classification",),
        aliases=("RobustLogLoss", "RLL"),
        note="The formula is from memory of the paper; no released code was compared.",
    )
    accepts = ("index",)
    summary = ("target", "rest", "each")

    alpha: float = real(1.0, "offset of the probabilities", above=0, search=(0.01, 10.0, "log"))

    def each(self, log_p: Tensor) -> Tensor:
        return (log_p.exp() / self.alpha).log1p()

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        log_p, log_other = log_odds(row.target, row.rest)
        return self._own(log_p, log_other) + (row.each - self.each(log_p)) / (row.columns - 1).clamp(min=1)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        log_p, log_other = log_probabilities(scores, targets)
        return self._own(targets.target(log_p), targets.target(log_other)) + targets.mean(self.each(log_p), targets.negative)

    def _own(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        """log((a + 1)/(a + p)) without cancellation at p = 1, nor at small p and a."""
        near = log_p > -0.7
        high = (-torch.where(near, log_other, -1.0).exp() / (self.alpha + 1)).log1p()
        return torch.where(near, -high, math.log1p(1 / self.alpha) - self.each(log_p))
