"""Losses that see a row only through the probability of its right column."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import flag, integer, real, reals
from torchlosses.loss import RowLoss
from torchlosses.scores import Scores
from torchlosses.targets import Targets

# Beyond this exponent exponential objectives go on linearly: sums of many rows at scores of +-1e4 stay in float32.
LINEAR_ABOVE = 64.0
LOG_ZERO = -1e30  # log 0, finite so that a factor of 0 leaves 0


class TargetProbability(RowLoss):
    r"""Base of losses ``psi(log p_y, log(1 - p_y))`` of the softmax: define :meth:`transform`.

    With one right column they stream like cross-entropy. Soft targets ``q`` give ``sum_k q_k psi(p_k)``.

    >>> import torch, torchlosses as tl
    >>> class Power(tl.TargetProbability):
    ...     def transform(self, log_p, log_other):
    ...         return 1 - (3 * log_p).exp()
    >>> Power()(torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.8750)
    """

    accepts = ("probability",)
    summary: ClassVar[tuple[str, ...]] = ("target", "rest")

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        """The loss from log p and log(1 - p), both exact at either end, elementwise."""
        raise NotImplementedError

    def streams(self, targets: Targets) -> tuple[str, ...]:
        return self.summary if "index" in targets.views else ()

    def from_summary(self, row: Summary, targets: Block, *args: Any, **fields: Any) -> Returned:
        return self.transform(*log_odds(row.target, row.rest))

    def rule(self, scores: Tensor, targets: Block, *args: Any, **fields: Any) -> Returned:
        if targets.has_index:
            return self.from_summary(Summary(scores, targets), targets)
        log_p, log_other = log_probabilities(scores, targets)
        return targets.sum(targets.probability * self.transform(log_p, log_other))


def log_odds(target: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """log p_y and log(1 - p_y) without cancellation."""
    gap = target - rest
    return functional.logsigmoid(gap), functional.logsigmoid(-gap).clamp(min=LOG_ZERO)


def log_probabilities(scores: Tensor, targets: Block) -> tuple[Tensor, Tensor]:
    """log p and log(1 - p) of every cell (b, L); the largest cell's complement is summed from the others."""
    if not scores.shape[1]:
        return scores, scores
    shown = scores.detach() if targets.all_valid else scores.detach().masked_fill(~targets.valid, -torch.inf)
    place = shown.argmax(-1, keepdim=True)
    first = torch.zeros_like(scores, dtype=torch.bool).scatter(1, place, True)
    top = scores.gather(1, place).squeeze(1)
    top_p, top_other = log_odds(top, targets.logsumexp(scores, ~first))
    log_p = torch.where(first, top_p[:, None], scores - (top - top_p)[:, None])
    # masked cells hold any number, and every p but the first is at most 1/2
    small = torch.where(targets.valid & ~first, log_p, -1.0)
    log_other = torch.where(first, top_other[:, None], (-small.exp()).log1p())
    return torch.where(targets.valid, log_p, -1.0), log_other


class Focal(TargetProbability):
    r"""Focal loss ``-(1 - p_y)^gamma log p_y``: cross-entropy that fades on rows already right.

    Arguments:
        gamma: focusing exponent, >= 0; 0 is cross-entropy.
        detach_weight: no gradient through ``(1 - p_y)^gamma``, as some public code has it.

    Soft targets give ``-sum_k q_k (1 - p_k)^gamma log p_k``. Class weights come with ``classes(index, weight=w)``.

    >>> import torch, torchlosses as tl
    >>> tl.Focal(gamma=2.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.0018)
    """

    card: ClassVar[Card] = Card(
        title="Focal Loss for Dense Object Detection",
        year=2017,
        identifier="arXiv:1708.02002",
        family="classification",
        formula=r"-(1-p_y)^\gamma \log p_y",
        purpose="Spend the gradient on hard rows when easy ones are many.",
        tasks=("classification",),
        aliases=("FocalLoss", "softmax focal loss", "sparse categorical focal loss"),
        detached="nothing; (1 - p_y)^gamma with detach_weight=True",
        equals=("CrossEntropy at gamma=0",),
    )

    gamma: float = real(2.0, "focusing exponent", low=0, search=(0.5, 5.0))
    detach_weight: bool = flag(False, "no gradient through the focusing factor")

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        weight = (self.gamma * log_other).exp()
        return -(weight.detach() if self.detach_weight else weight) * log_p


class PolyLoss(TargetProbability):
    r"""PolyLoss: cross-entropy with the leading coefficients of its expansion in ``1 - p_y`` changed.

    Arguments:
        epsilons: what is added to the coefficients of ``(1 - p_y)^1, (1 - p_y)^2, ...``; a number means one of them.
        gamma: focusing exponent on the whole loss (the paper's form for focal loss), >= 0.

    Soft targets: ``-sum_k q_k (1 - p_k)^gamma log p_k + sum_j epsilon_j (1 - sum_k q_k p_k)^(gamma + j)``.

    >>> import torch, torchlosses as tl
    >>> tl.PolyLoss(epsilons=(1.0,))(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.2461)
    """

    card: ClassVar[Card] = Card(
        title="PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions",
        year=2022,
        identifier="arXiv:2204.12511",
        family="classification",
        formula=r"(1-p_y)^\gamma\left(-\log p_y + \sum_{j} \epsilon_j (1-p_y)^j\right)",
        purpose="Better cross-entropy or focal loss by one tuned number.",
        tasks=("classification",),
        aliases=("Poly1CrossEntropyLoss", "Poly1Loss", "PolyLoss", "poly_loss_cross_entropy", "PolyFocalLoss"),
        equals=("CrossEntropy at epsilons=(0,), gamma=0", "Focal(gamma) at epsilons=(0,)"),
        note="The polynomial part of soft targets is taken of sum_k q_k p_k, as timm does.",
    )

    epsilons: tuple[float, ...] = reals((2.0,), "changes of the leading coefficients", search=(-1.0, 8.0))
    gamma: float = real(0.0, "focusing exponent", low=0)

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        value = -log_p if not self.gamma else -(self.gamma * log_other).exp() * log_p
        for j, epsilon in enumerate(self.epsilons, 1):
            value = value + epsilon * ((self.gamma + j) * log_other).exp()
        return value

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        if targets.has_index:
            return self.from_summary(Summary(scores, targets), targets)
        log_p, log_other = log_probabilities(scores, targets)
        q = targets.probability
        entropy = -log_p if not self.gamma else -(self.gamma * log_other).exp() * log_p
        value = targets.sum(q * entropy)
        short = (q.sum(-1) - targets.sum(q * log_p.exp())).clamp(min=0)
        for j, epsilon in enumerate(self.epsilons, 1):
            value = value + epsilon * _power(short, self.gamma + j)
        return value


def _power(base: Tensor, exponent: float) -> Tensor:
    """base ** exponent with gradient 0 at base 0."""
    some = base > 0
    return torch.where(some, torch.where(some, base, 1.0) ** exponent, 0.0)


def comp_sum(log_p: Tensor, tau: float) -> Tensor:
    """``(p^(tau - 1) - 1) / (1 - tau)``, ``-log p`` at tau = 1; linear in log p beyond ``LINEAR_ABOVE``."""
    rate = 1 - tau
    if abs(rate) < 1e-12:
        return -log_p
    exponent = -rate * log_p
    if rate < 0:
        return exponent.expm1() / rate
    inside = exponent.clamp(max=LINEAR_ABOVE)
    return (inside.expm1() + inside.detach().exp() * (exponent - inside)) / rate


class CompSum(TargetProbability):
    r"""Comp-sum loss ``((1/p_y)^(1 - tau) - 1) / (1 - tau)``: from sum-exponential (0) over cross-entropy (1) to MAE (2).

    Arguments:
        tau: in [0, 2]; between 1 and 2 it is generalized cross-entropy with ``q = tau - 1``.

    >>> import torch, torchlosses as tl
    >>> tl.CompSum(tau=2.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1192)
    """

    card: ClassVar[Card] = Card(
        title="Cross-Entropy Loss Functions: Theoretical Analysis and Applications",
        year=2023,
        identifier="arXiv:2304.07288",
        family="classification",
        formula=r"\frac{(1/p_y)^{1-\tau}-1}{1-\tau}",
        purpose="One knob between fast fitting (small tau) and robustness to wrong labels (large tau).",
        tasks=("classification",),
        aliases=("comp-sum loss", "sum-exponential", "sum-exponential loss"),
        equals=(
            "CrossEntropy at tau=1",
            "MeanAbsoluteError at tau=2",
            "GeneralizedCrossEntropy(q) at tau=1+q",
        ),
        note="For tau < 1 the exponential continues linearly once (1 - tau) * (-log p_y) exceeds 64.",
    )

    tau: float = real(1.5, "place in the family", low=0, high=2, search=(0.5, 2.0))

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        return comp_sum(log_p, self.tau)


class GeneralizedCrossEntropy(TargetProbability):
    r"""Generalized cross-entropy ``(1 - p_y^q) / q``: between cross-entropy (q to 0) and MAE (q = 1).

    Arguments:
        q: in (0, 1]; larger is more robust to wrong labels and slower to fit.

    >>> import torch, torchlosses as tl
    >>> tl.GeneralizedCrossEntropy()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1215)
    """

    card: ClassVar[Card] = Card(
        title="Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
        year=2018,
        identifier="arXiv:1805.07836",
        family="classification",
        formula=r"\frac{1-p_y^q}{q}",
        purpose="Classification with wrong labels in the training data.",
        tasks=("classification",),
        aliases=("GCE", "GCELoss", "Lq loss", "tsallis loss"),
        equals=("CompSum(tau=1+q)",),
    )

    q: float = real(0.7, "robustness", above=0, high=1, search=(0.1, 1.0))

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        return comp_sum(log_p, 1 + self.q)


class MeanAbsoluteError(TargetProbability):
    r"""``1 - p_y``: half the L1 distance of the softmax to the one-hot target; the most noise-robust of its family.

    >>> import torch, torchlosses as tl
    >>> tl.MeanAbsoluteError()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1192)
    """

    card: ClassVar[Card] = Card(
        title="Robust Loss Functions under Label Noise for Deep Neural Networks",
        year=2017,
        identifier="arXiv:1712.09482",
        family="classification",
        formula=r"1-p_y",
        purpose="Classification robust to symmetric label noise; slow with many classes.",
        tasks=("classification",),
        aliases=("MAE", "MAELoss", "MeanAbsoluteErrorLoss", "unhinged loss"),
        equals=("CompSum(tau=2)", "GeneralizedCrossEntropy(q=1)", "reverse cross-entropy divided by -log(1e-4)"),
    )

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        return log_other.exp()


class Encouraging(TargetProbability):
    r"""Encouraging loss: cross-entropy plus a bonus ``log(1 - p_y)``, so that rows already right keep their gradient.

    Arguments:
        log_end: in (0, 1]; for p_y above it the bonus goes on along its tangent. At 1 the bonus stays the logarithm, of
            ``max(1 - p_y, 1e-5)``.

    Negative on rows that are well classified: that is meant. The derivative by s_y is -1 wherever p_y <= log_end.

    >>> import torch, torchlosses as tl
    >>> tl.Encouraging()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(-1.7826)
    """

    card: ClassVar[Card] = Card(
        title="Well-classified Examples are Underestimated in Classification with Deep Neural Networks",
        year=2022,
        identifier="arXiv:2110.06537",
        family="classification",
        formula=r"-\log p_y + \begin{cases}\log(1-p_y) & p_y\le e\\ \log(1-e)-\frac{p_y-e}{1-e} & p_y>e\end{cases}",
        purpose="Keep learning from rows that are already right: larger margins, better representations.",
        tasks=("classification",),
        aliases=("EncouragingLoss", "encouraging loss", "conservative bonus", "mirror bonus"),
        note="Label smoothing goes with soft(q).",
    )

    log_end: float = real(0.75, "where the bonus becomes linear", above=0, high=1, search=(0.3, 0.95))

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        if self.log_end == 1:
            return log_other.clamp(min=math.log(1e-5)) - log_p  # 1e-5: the released code
        left = 1 - self.log_end
        beyond = log_other < math.log(left)
        tangent = math.log(left) - (left - log_other.exp()) / left
        return torch.where(beyond, tangent, torch.where(beyond, 0.0, log_other)) - log_p


def log1m_exp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0 without cancellation; at least ``LOG_ZERO``, with gradient 0 there."""
    some = x < 0
    x = torch.where(some, x, -1.0)
    near = x > -math.log(2)
    close, far = torch.where(near, x, -1.0), torch.where(near, -1.0, x)
    return torch.where(some, torch.where(near, (-close.expm1()).log(), (-far.exp()).log1p()), LOG_ZERO)


class DirectCoverage(TargetProbability):
    r"""Direct coverage optimization: ``-log(1 - (1 - p)^attempts)``, the chance that one of several samples is right.

    Arguments:
        attempts: how many samples are drawn at test time (the N of pass@N), >= 1; 1 is cross-entropy.

    ``loss(log_p)`` with one tensor (...) takes the log-probabilities of whole right answers (sums over their tokens);
    ``loss(scores, targets)`` takes p_y of the softmax.

    >>> import torch, torchlosses as tl
    >>> tl.DirectCoverage(attempts=2)(torch.tensor([0.5]).log())
    tensor(0.2877)
    """

    card: ClassVar[Card] = Card(
        title="Rethinking Fine-Tuning when Scaling Test-Time Compute: Limiting Confidence Improves Mathematical Reasoning",
        year=2025,
        identifier="arXiv:2502.07154",
        family="classification",
        formula=r"-\log\left(1-(1-p)^N\right)",
        purpose="Fine-tune a model whose answers are sampled N times: stop pushing where one of N is surely right.",
        aliases=("DirectCoverageLoss", "DCO", "direct coverage optimization", "pass@N loss"),
        equals=("CrossEntropy at attempts=1",),
    )

    attempts: int = integer(16, "samples drawn at test time", low=1)

    def forward(
        self,
        scores: Scores | Tensor,
        targets: Targets | Tensor | None = None,
        *,
        group: object = None,
        **fields: Tensor,
    ) -> Tensor:
        if targets is not None:
            return super().forward(scores, targets, group=group, **fields)
        if fields:
            raise TypeError(f"{sorted(fields)[0]}: without targets there are no fields")
        if not isinstance(scores, Tensor) or not scores.dtype.is_floating_point:
            raise TypeError("scores: without targets expected a tensor of log-probabilities of whole answers")
        log_p = scores.to(torch.promote_types(scores.dtype, torch.float32)).reshape(-1).clamp(max=0)
        value = self.transform(log_p, log1m_exp(log_p))
        found = self._reduction({"loss": (value, torch.ones_like(value))})
        return found.reshape(scores.shape) if self.reduction == "none" else found

    def transform(self, log_p: Tensor, log_other: Tensor) -> Tensor:
        if self.attempts == 1:
            return -log_p
        rare = log_p < -15  # there log(-log(1 - p)) = log p + p/2, and 1 - p rounds to 1
        common = torch.where(rare, -1.0, log_other)
        rate = math.log(self.attempts) + torch.where(rare, log_p + log_p.exp() / 2, (-common).log())
        missed = rate.exp()  # -log of the chance that every sample is wrong
        tiny = missed < 1e-4
        return torch.where(tiny, missed / 2 - rate, -log1m_exp(-torch.where(tiny, 1.0, missed)))
