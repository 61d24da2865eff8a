"""Objectives about how sure the model is: of every class, of its answer, or of answering at all."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.target_probability import log_odds
from torchlosses.losses.surrogates import continued_exp
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets, desirable


class ConfidencePenalty(RowLoss):
    r"""Cross-entropy minus ``beta`` times the entropy of the softmax.

    Arguments:
        beta: >= 0.

    >>> import torch, torchlosses as tl
    >>> tl.ConfidencePenalty(beta=0.1)(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.0904)
    """

    card: ClassVar[Card] = Card(
        title="Regularizing Neural Networks by Penalizing Confident Output Distributions",
        year=2017,
        identifier="arXiv:1701.06548",
        family="classification",
        formula=r"-\log p_y-\beta H(p)",
        purpose="Keep predictions from becoming overconfident.",
        tasks=("classification",),
        aliases=("entropy regularization", "maximum entropy regularization", "confidence penalty"),
        equals=("CrossEntropy at beta=0",),
    )
    accepts = ("probability",)

    summary = ("target", "rest", "each")

    beta: float = real(0.1, "factor of the entropy", low=0, search=(0.01, 1.0, "log"))

    def streams(self, targets: Targets) -> tuple[str, ...]:
        return self.summary if "index" in targets.views else ()

    def each(self, log_p: Tensor) -> Tensor:
        return log_p.exp() * log_p

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        return self.beta * row.each - log_odds(row.target, row.rest)[0]

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        log_p = targets.log_softmax(scores)
        return targets.sum((self.beta * log_p.exp() - targets.probability) * log_p)


class LogitNorm(RowLoss):
    r"""Cross-entropy on scores divided by ``temperature`` times their norm: training cannot gain from larger scores.

    Arguments:
        temperature: > 0.
        eps: added to the norm, >= 0.

    :meth:`predict` is the softmax of the scores as they are.

    >>> import torch, torchlosses as tl
    >>> tl.LogitNorm(temperature=1.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.3133)
    """

    card: ClassVar[Card] = Card(
        title="Mitigating Neural Network Overconfidence with Logit Normalization",
        year=2022,
        identifier="arXiv:2205.09310",
        family="classification",
        formula=r"-\log\frac{e^{s_y/(\tau\|s\|)}}{\sum_j e^{s_j/(\tau\|s\|)}}",
        purpose="Scores whose size tells inputs of other distributions apart.",
        tasks=("classification",),
        aliases=("LogitNormLoss", "logit normalization"),
        note="Not shift invariant.",
    )
    accepts = ("probability",)

    temperature: float = real(0.04, "divides the normalized scores", above=0, search=(0.005, 1.0, "log"))
    eps: float = real(1e-7, "added to the norm", low=0)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        square = targets.sum(scores.square())
        some = square > 0
        norm = torch.where(some, torch.where(some, square, 1.0).sqrt(), 0.0) + self.eps
        some = norm.detach() > 0  # not so in a row of zeros at eps=0, which gets no gradient
        unit = torch.where(some[:, None], scores / torch.where(some, norm, 1.0)[:, None], 0.0)
        row = Summary(unit / self.temperature, targets)
        return row.mass * row.lse - row.target


class CorrectnessAware(RowLoss):
    r"""Correctness-aware calibration: the squared gap between the confidence in the answer and whether it is right.

    ``(max_k softmax(s / T)_k - [argmax s = y])^2``; only the confidence carries gradient.

    Fields: ``targets.given(temperature=T)``, T (B,) > 0, usually what a small calibrator gives for frozen scores; without
    it T = 1. Of equal scores the first is the answer.

    >>> import torch, torchlosses as tl
    >>> tl.CorrectnessAware()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.0142)
    """

    card: ClassVar[Card] = Card(
        title="Optimizing Calibration by Gaining Aware of Prediction Correctness",
        year=2024,
        identifier="arXiv:2404.13016",
        family="classification",
        formula=r"\left(\max_k\mathrm{softmax}(s/T)_k-[\arg\max s=y]\right)^2",
        purpose="Fit a calibrator that gives each example its temperature.",
        aliases=("CorrectnessAwareLoss", "CA loss"),
        detached="the answer and whether it is right",
        note="The Brier score of top-label correctness.",
    )
    accepts = ("index",)

    def rule(self, scores: Tensor, targets: Block, *, temperature: Tensor | None = None, **fields: Tensor) -> Returned:
        if not scores.shape[1]:
            return scores.sum(-1)
        shown = scores.detach() if targets.all_valid else scores.detach().masked_fill(~targets.valid, -torch.inf)
        answer = shown.argmax(-1)
        scaled = scores if temperature is None else scores / temperature.to(scores.dtype)[:, None]
        top = scaled.gather(1, answer[:, None]).squeeze(1)
        confidence = (top - targets.logsumexp(scaled)).exp()
        return (confidence - (answer == targets.index).to(scores.dtype)).square()


class RejectionSurrogate(RowLoss):
    r"""Learning to reject with a fixed predictor: ``exp(alpha/2 (r - a)) + c exp(-beta r)``.

    ``r`` is the rejector's score (accept where r > 0), ``a`` is 1 where the predictor is right and -1 where it is wrong. The
    rate ``beta = alpha (c e^(alpha/2) + (1 - c) e^(-alpha/2)) / (2 c)`` makes r = 0 best where the chance of an error is c.

    Arguments:
        c: cost of rejecting, in (0, 1/2).
        alpha: sharpness, > 0.

    Scores: r (B,) or (B, 1). Targets: ``desirable(right)``, or a tensor (B,) that is > 0 where the predictor is right.

    >>> import torch, torchlosses as tl
    >>> tl.RejectionSurrogate(c=0.25)(torch.tensor([0.5]), torch.tensor([1]))
    tensor(0.6435)
    """

    card: ClassVar[Card] = Card(
        title="Learning to Reject with a Fixed Predictor: Application to Decontextualization",
        year=2023,
        identifier="arXiv:2301.09044",
        family="classification",
        formula=r"e^{\frac{\alpha}{2}(r-a)}+c\,e^{-\beta r}",
        purpose="Train when a given model should abstain.",
        scores="none",
        aliases=("reject surrogate", "learning to abstain"),
        note="The relation of beta to alpha and c is ours, from calibration. Exponentials continue linearly above 80.",
    )
    accepts = ("desirable",)

    c: float = real(0.05, "cost of rejecting", above=0, below=0.5, search=(0.01, 0.4, "log"))
    alpha: float = real(2.0, "sharpness", above=0, search=(0.5, 4.0, "log"))

    @property
    def beta(self) -> float:
        """The rate of the second exponential."""
        half = self.alpha / 2
        return half / self.c * (self.c * math.exp(half) + (1 - self.c) * math.exp(-half))

    def _scores(self, scores: Scores | Tensor, targets: Targets | Tensor) -> Scores:
        single = isinstance(scores, Tensor) and scores.dim() == 1
        return as_scores(scores[:, None] if isinstance(scores, Tensor) and single else scores)

    def _targets(self, targets: Targets | Tensor) -> Targets:
        return super()._targets(desirable(targets) if isinstance(targets, Tensor) else targets)

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        if recipe.columns_count != 1:
            raise ValueError(f"scores: expected one per row, (B,) or (B, 1), got {recipe.columns_count} columns")

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        r = scores.squeeze(1)
        right = 2 * targets.desirable.to(r.dtype) - 1
        return continued_exp(self.alpha / 2 * (r - right)) + self.c * continued_exp(-self.beta * r)

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The scores themselves: accept where they are > 0."""
        return as_scores(scores.unsqueeze(-1) if isinstance(scores, Tensor) else scores).tensor().squeeze(-1)
