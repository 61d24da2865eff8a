"""Fenchel-Young losses: one regularizer gives a map to distributions and the loss that fits it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import choice, real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.maps import entmax, hardmax, normmax, positive_power, safe_softmax
from torchlosses.losses.surrogates import softplus
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets

REGULARIZERS = ("shannon", "tsallis", "norm", "none", "squared", "logistic")


class FenchelYoung(RowLoss):
    r"""Fenchel-Young loss :math:`\Omega^*(s)+\Omega(q)-\langle q,s\rangle`: 0 exactly where the map of s is the target q.

    The gradient is ``map(s) - q``, the map being the maximizer of :math:`\langle p,s\rangle-\Omega(p)`, which
    :meth:`predict` returns.

    Arguments:
        regularizer: over distributions, 'shannon' (softmax: the loss is KL(q | softmax)), 'tsallis' (entmax of order
            alpha; 2 is sparsemax), 'norm' (normmax, :math:`\|p\|_\alpha-1`), 'none' (the perceptron: all mass on the
            largest score, shared by equals); over any numbers, 'squared' (:math:`\tfrac12\|s-q\|^2`); over [0, 1] per
            column, 'logistic' (sigmoids: binary cross-entropy minus the entropy of q).
        alpha: order of 'tsallis' (>= 1) and 'norm' (> 1).

    Soft targets are q. For distributions several right columns share the mass evenly and rows without one are empty;
    'squared' and 'logistic' take q = 1 in each of them.

    >>> import torch, torchlosses as tl
    >>> tl.FenchelYoung(regularizer="tsallis", alpha=1.5)(torch.tensor([[0.5, 0.0]]), torch.tensor([0]))
    tensor(0.1844)
    >>> tl.FenchelYoung(regularizer="norm", alpha=2.0).predict(torch.tensor([[0.5, 0.0, -1.0]]))
    tensor([[0.6890, 0.3110, 0.0000]])
    """

    card: ClassVar[Card] = Card(
        title="Learning with Fenchel-Young Losses",
        year=2020,
        identifier="arXiv:1901.02324",
        family="classification",
        formula=r"\max_p\left(\langle p,s\rangle-\Omega(p)\right)+\Omega(q)-\langle q,s\rangle",
        purpose="Fit a chosen map from scores to (sparse) distributions, with hard, soft or several labels.",
        tasks=("classification",),
        aliases=(
            "FenchelYoungLoss",
            "make_fenchel_young_loss",
            "MulticlassPerceptronLoss",
            "multiclass perceptron",
            "perceptron",
            "KLDivergence",
        ),
        cost="O(BL); sparse maps look among the largest scores first",
        equals=(
            "CrossEntropy minus the entropy of q at 'shannon'",
            "Sparsemax at 'tsallis', alpha=2",
            "CrammerSinger(margin=0) at 'none'",
            "BinaryCrossEntropy(columns='sum') minus the entropy of q at 'logistic'",
        ),
        note="Equal largest scores share the perceptron's subgradient.",
    )
    accepts = ("probability",)
    summary = ("lse", "target")
    copies = 10.0

    regularizer: str = choice("tsallis", "what the map minimizes beside -<p, s>", options=REGULARIZERS)
    alpha: float = real(1.5, "order of the Tsallis entropy or of the norm", low=1, search=(1.05, 2.5))

    def setup(self) -> None:
        if self.regularizer == "norm" and self.alpha == 1:
            raise ValueError("alpha: expected a number in (1, inf) for regularizer='norm', got 1.0")

    @property
    def _kind(self) -> str:
        return "shannon" if self.regularizer == "tsallis" and self.alpha == 1 else self.regularizer

    def streams(self, targets: Targets) -> tuple[str, ...]:
        if "index" not in targets.views:
            return ()
        return {"shannon": ("lse", "target"), "squared": ("target", "squares")}.get(self._kind, ())

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        if self._kind == "squared":
            return (row.squares + 1) / 2 - row.target
        return row.lse - row.target

    def map(self, scores: Tensor) -> Tensor:
        """The maximizer of <p, s> - Omega(p) of each row (..., L); cells of -inf get 0."""
        kind = self._kind
        if kind == "tsallis":
            return entmax(scores, self.alpha)
        if kind == "norm":
            return normmax(scores, self.alpha)
        if kind == "squared":
            return scores
        if kind == "logistic":
            return scores.sigmoid()
        return safe_softmax(scores) if kind == "shannon" else hardmax(scores)

    def omega(self, p: Tensor) -> Tensor:
        """Omega of each row of p (b, L)."""
        kind = self._kind
        if kind == "shannon":
            return -_entropy(p).sum(-1)
        if kind == "tsallis":
            # sum p^alpha - 1 without cancellation near alpha = 1, as p sums to 1
            some = p > 0
            log_p = torch.where(some, torch.where(some, p, 1.0).log(), -torch.inf)
            return (p * ((self.alpha - 1) * log_p).expm1()).sum(-1) / (self.alpha * (self.alpha - 1))
        if kind == "norm":
            return positive_power(positive_power(p, self.alpha).sum(-1), 1 / self.alpha) - 1
        if kind == "squared":
            return p.square().sum(-1) / 2
        if kind == "logistic":
            return -(_entropy(p) + _entropy(1 - p)).sum(-1)
        return torch.zeros_like(p[:, 0]) if p.shape[1] else p.sum(-1)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        kind = self._kind
        if kind in ("squared", "logistic"):
            q = targets.probability if targets.kind == "soft" else targets.grade
            if kind == "squared":
                return targets.sum((scores - q).square()) / 2
            return targets.sum(softplus(scores) - q * scores) + self.omega(q)
        q = targets.probability
        mass = q.sum(-1)
        # shifted by the largest score: with mass 1 the value does not depend on it
        top = targets.max(scores.detach(), empty=0.0)
        shifted = scores - top[:, None]
        target = targets.sum(q * shifted) - (1 - mass) * top
        if kind == "shannon":
            best = targets.logsumexp(shifted)
        else:
            p = self.map(scores if targets.all_valid else scores.masked_fill(~targets.valid, -torch.inf))
            best = _AtMaximum.apply(shifted, p, self.omega(p.detach()))  # type: ignore[no-untyped-call]
        return best - target + self.omega(q), mass

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The regularizer's map of the scores (..., L)."""
        return self.map(as_scores(scores).tensor())


def _entropy(p: Tensor) -> Tensor:
    """-p log p, 0 with gradient 0 at 0."""
    some = p > 0
    return torch.where(some, -p * torch.where(some, p, 1.0).log(), 0.0)


class _AtMaximum(Function):
    """``<p, s> - omega`` at the maximizer p: its derivative is p, since moving the maximizer changes nothing."""

    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, p: Tensor, omega: Tensor) -> Tensor:
        return (p * scores).sum(-1) - omega

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (p,) = ctx.saved_tensors
        return grads[0][:, None] * p, None, None


class Sparsemax(FenchelYoung):
    r"""Sparsemax loss: like cross-entropy, with a margin of 1 and predictions that can be exactly 0.

    ``max_p (<p, s> - |p|^2 / 2) - <q, s> + |q|^2 / 2`` over distributions p; its gradient is ``sparsemax(s) - q``, and it
    is 0 exactly where sparsemax(s) = q. Soft targets are q; several right columns share the mass evenly; rows without
    one are empty.

    >>> import torch, torchlosses as tl
    >>> tl.Sparsemax()(torch.tensor([[0.5, 0.0]]), torch.tensor([0]))
    tensor(0.0625)
    >>> tl.Sparsemax().predict(torch.tensor([[0.5, 0.0, -1.0]]))
    tensor([[0.7500, 0.2500, 0.0000]])
    """

    card: ClassVar[Card] = Card(
        title="From Softmax to Sparsemax: A Sparse Model of Attention and Multi-Label Classification",
        year=2016,
        identifier="arXiv:1602.02068",
        family="classification",
        formula=r"\max_{p\in\Delta}\left(\langle p,s\rangle-\tfrac12\|p\|^2\right)-\langle q,s\rangle+\tfrac12\|q\|^2",
        purpose="Classification and multi-label learning with sparse predicted distributions.",
        tasks=("classification",),
        aliases=("SparsemaxLoss", "sparsemax_loss", "modified Huber loss (two classes)", "entmax alpha=2"),
        cost="O(BL)",
        equals=("FenchelYoung at 'tsallis', alpha=2",),
    )

    alpha: float = real(2.0, "order of the Tsallis entropy", low=1)


class Entmax(FenchelYoung):
    r"""Entmax loss of order alpha: between cross-entropy (1) and the sparsemax loss (2), sparse above 1.

    Arguments:
        alpha: >= 1; the margin at which the loss is exactly 0 is 1 / (alpha - 1).

    >>> import torch, torchlosses as tl
    >>> tl.Entmax(alpha=1.5)(torch.tensor([[2.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 0]))
    tensor(0.0922)
    """

    card: ClassVar[Card] = Card(
        title="Sparse Sequence-to-Sequence Models",
        year=2019,
        identifier="arXiv:1905.05702",
        family="classification",
        formula=r"\langle p-q,s\rangle+\tfrac{1}{\alpha(\alpha-1)}\left(\sum_jq_j^\alpha-\sum_jp_j^\alpha\right)",
        purpose="Classification and generation with predictions that can be exactly 0, softer than sparsemax.",
        tasks=("classification",),
        aliases=("EntmaxLoss", "Entmax15Loss", "EntmaxBisectLoss", "entmax15_loss"),
        cost="O(BL)",
        equals=("CrossEntropy at alpha=1 (one-hot targets)", "Sparsemax at alpha=2"),
    )


class Normmax(FenchelYoung):
    r"""Normmax loss: the Fenchel-Young loss of the alpha-norm, whose map spreads evenly over a sparse support.

    Arguments:
        alpha: order of the norm, > 1.

    >>> import torch, torchlosses as tl
    >>> tl.Normmax()(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.5000)
    """

    card: ClassVar[Card] = Card(
        title="Learning with Fenchel-Young Losses",
        year=2020,
        identifier="arXiv:1901.02324",
        family="classification",
        formula=r"\max_{p\in\Delta}\left(\langle p,s\rangle-\|p\|_\alpha\right)-\langle q,s\rangle+\|q\|_\alpha",
        purpose="Classification with sparse predictions that do not prefer one of several good columns.",
        tasks=("classification",),
        aliases=("NormmaxLoss", "NormmaxBisectLoss"),
        cost="O(BL)",
    )

    regularizer = "norm"
    alpha: float = real(2.0, "order of the norm", above=1, search=(1.2, 5.0))
