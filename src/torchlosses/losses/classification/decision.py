"""Long-tailed classification as a decision under a utility, and weights by an example's influence or rarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import data, flag, real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.prior import checked_counts, known_counts
from torchlosses.scores import Scores
from torchlosses.targets import Targets


class IntegratedGain(RowLoss):
    r"""Integrated gain of RF-DLC: weighted margin cross-entropy plus the utility of every decision, for one particle.

    On ``z = s - scale m_y e_y`` with ``m_j = max_margin (n_min / n_j)^(1/4)``: cross-entropy as the mean weighted by
    ``w_y``, plus the plain mean of ``-(1/alpha) sum_j w_j U_yj log softmax(z)_j``.

    Arguments:
        class_counts: (C,) training examples of each class, >= 0; a class without any counts as one example.
        utility: (C, C) of deciding j when y is right, or None; see :func:`torchlosses.metrics.tail_sensitive_utility`.
        class_weight: (C,) w; None is 1 / class_counts, ones what precedes deferred re-weighting.
        alpha: divides the utility's term, > 0; 0.002 to 50 with the size of the problem.
        max_margin, scale: of the margin; 0 leaves it out.

    Average over the particles of an ensemble, and add :func:`repulsive_logdet` of their parameters.

    >>> import torch, torchlosses as tl
    >>> loss = tl.IntegratedGain(class_counts=torch.tensor([90, 10]), max_margin=0.0)
    >>> loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    tensor(1.2133)
    """

    card: ClassVar[Card] = Card(
        title="Making Reliable and Flexible Decisions in Long-tailed Classification",
        year=2025,
        identifier="arXiv:2501.14090",
        family="classification",
        formula=r"\frac{\sum_i w_{y_i}\mathrm{CE}_i}{\sum_i w_{y_i}}-\frac1{\alpha B}\sum_{ij}w_jU_{y_ij}\log p_{ij}",
        purpose="Long-tailed classification where some mistakes, such as tail taken for head, cost more.",
        tasks=("classification",),
        aliases=("RF-DLC", "RFDLC", "integrated risk", "repulsive_logdet", "false_head_rate"),
        over="weights of the rows' classes for cross-entropy, rows for the utility",
        detached="weights, margin and utility",
        note="The earlier Bayesian-decision version of the same authors could not be checked and is not a class of its own.",
    )
    over = "terms"

    class_counts: Tensor = data("training examples of each class, (C,)")
    utility: Tensor | None = data("(C, C) utility of deciding j when y is right", None)
    class_weight: Tensor | None = data("(C,) weight of each class", None)
    alpha: float = real(0.3, "divides the utility's term", above=0, search=(0.002, 50.0, "log"))
    max_margin: float = real(0.5, "the rarest class's margin", low=0)
    scale: float = real(30.0, "of the margin", low=0)

    def setup(self) -> None:
        self.class_counts = checked_counts(self.class_counts)

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        columns = known_counts(self.class_counts, recipe).shape[0]
        for name, found, shape in (
            ("utility", self.utility, (columns, columns)),
            ("class_weight", self.class_weight, (columns,)),
        ):
            if found is not None and tuple(found.shape) != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {tuple(found.shape)}")

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        counts = self.class_counts.to(scores)
        counts = torch.where(counts > 0, counts, 1.0)
        weight = 1 / counts if self.class_weight is None else self.class_weight.to(scores)
        margin = self.scale * self.max_margin * (counts.min() / counts[targets.index]) ** 0.25
        log_p = targets.log_softmax(scores - margin[:, None] * targets.positive.to(scores.dtype))
        own = weight[targets.index]
        terms = {"entropy": (-own * targets.target(log_p), own)}
        if self.utility is not None:
            gain = targets.sum(weight * self.utility.to(scores)[targets.index] * log_p)
            terms["utility"] = (-gain / self.alpha, torch.ones_like(gain))
        return terms


def repulsive_logdet(particles: Sequence[Tensor]) -> Tensor:
    """Minus half the mean log variance of particles' parameters across particles: adding it drives them apart.

    Arguments:
        particles: at least two tensors of one shape, such as each network's ``parameters_to_vector``. The authors weigh
            the value by ``exp(-epoch / 40)``. A coordinate where all agree counts as the smallest number, gradient 0.

    "Making Reliable and Flexible Decisions in Long-tailed Classification" (RF-DLC), 2025.

    >>> import torch, torchlosses as tl
    >>> tl.repulsive_logdet([torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])])
    tensor(-0.)
    """
    if len(particles) < 2 or len({p.shape for p in particles}) != 1:
        raise ValueError(f"particles: expected at least two tensors of one shape, got {[tuple(p.shape) for p in particles]}")
    variance = torch.stack(list(particles)).var(0, correction=0)
    tiny = torch.finfo(variance.dtype).tiny
    return -0.5 * torch.where(variance.detach() > tiny, variance, tiny).log().mean()


class InfluenceBalanced(RowLoss):
    r"""Influence-balanced loss: cross-entropy divided by the influence of the example on the decision boundary.

    Arguments:
        alpha: factor of the weights, > 0.
        eps: added to the influence, > 0.
        detach_weight: the weight carries no gradient (the released code lets it).

    Needs ``targets.given(feature_norm=h.abs().sum(-1))``, the L1 norms (B,) of the features before the last layer. Train
    with cross-entropy first and fine-tune with this.

    >>> import torch, torchlosses as tl
    >>> y = tl.classes(torch.tensor([0])).given(feature_norm=torch.tensor([2.0]))
    >>> tl.InfluenceBalanced(alpha=1.0)(torch.tensor([[1.0, 0.0]]), y)
    tensor(0.2909)
    """

    card: ClassVar[Card] = Card(
        title="Influence-Balanced Loss for Imbalanced Visual Classification",
        year=2021,
        identifier="arXiv:2110.02444",
        family="classification",
        formula=r"\frac{\alpha\,\mathrm{CE}}{\|p-e_y\|_1\|h\|_1+\epsilon}",
        purpose="Fine-tune a long-tailed classifier so that no few examples shape its boundary.",
        aliases=("IB loss", "IBLoss"),
        note="detach_weight=False is the released code.",
    )
    accepts = ("index",)
    summary = ("target", "rest")

    alpha: float = real(1000.0, "factor of the weights", above=0, search=(1.0, 1000.0, "log"))
    eps: float = real(1e-3, "added to the influence", above=0)
    detach_weight: bool = flag(False, "the weight carries no gradient")

    def from_summary(self, row: Summary, targets: Block, *, feature_norm: Tensor, **fields: Tensor) -> Returned:
        ahead = row.target - row.rest
        influence = 2 * torch.sigmoid(-ahead) * feature_norm
        if self.detach_weight:
            influence = influence.detach()
        return -functional.logsigmoid(ahead) * self.alpha / (influence + self.eps)
