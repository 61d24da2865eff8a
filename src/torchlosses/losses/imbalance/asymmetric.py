"""Multi-label losses whose wrong columns, easy and many, are focused harder than the right ones."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import data, flag, real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.binary import SigmoidLoss
from torchlosses.losses.classification.prior import checked_counts, known_counts, positive_counts
from torchlosses.scores import Scores
from torchlosses.targets import Targets


class AsymmetricMultiLabel(SigmoidLoss):
    r"""Asymmetric loss (ASL): ``-(1-p)^g+ log p`` in right columns, ``-q^g- log(1-q)``, q = max(p - clip, 0), in wrong ones.

    Arguments:
        gamma_neg, gamma_pos: focusing exponents of wrong and right columns, >= 0.
        clip: probability below which a wrong column costs nothing, [0, 1).
        detach_focus: the focusing factors carry no gradient; the same value, another gradient.
        eps: the logarithms stop at log(eps), with gradient 0 beyond, as the official code's 1e-8; 0 (the default): exact.
        columns: 'sum' (the default) or 'mean' over the columns of a row. The official code also sums over the rows, which
            is ``reduction='sum'``.

    >>> import torch, torchlosses as tl
    >>> tl.AsymmetricMultiLabel()(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.0396)
    """

    card: ClassVar[Card] = Card(
        title="Asymmetric Loss For Multi-Label Classification",
        year=2021,
        identifier="arXiv:2009.14119",
        family="imbalance",
        formula=r"-\sum_j y_j(1-p_j)^{\gamma_+}\log p_j + (1-y_j)\,q_j^{\gamma_-}\log(1-q_j),\quad q_j=[p_j-c]_+",
        purpose="Multi-label classification with a few right labels among many.",
        tasks=("classification",),
        aliases=("ASL", "AsymmetricLoss", "AsymmetricLossOptimized", "AsymmetricLossMultiLabel"),
        detached="nothing; the focusing factors with detach_focus",
        equals=("BinaryCrossEntropy at gamma=0, clip=0", "SigmoidFocal(alpha=None) at equal gamma, clip=0"),
        note="The official code's eps of 1e-8 stops the loss at 18.4; here it is exact unless eps is given.",
    )

    copies = 16.0

    gamma_neg: float = real(4.0, "focusing exponent of wrong columns", low=0, search=(1.0, 6.0))
    gamma_pos: float = real(1.0, "focusing exponent of right columns", low=0, search=(0.0, 1.0))
    clip: float = real(0.05, "probability below which a wrong column is free", low=0, below=1, search=(0.0, 0.2))
    detach_focus: bool = flag(False, "no gradient through the focusing factors")
    eps: float = real(0.0, "floor of the logarithms' arguments; 0 for none", low=0, below=1)
    columns = "sum"

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return self.positive(scores), self.negative(scores, self.gamma_neg)

    def positive(self, scores: Tensor) -> Tensor:
        """What a right column costs."""
        return self._focused(functional.softplus(-scores), (self.gamma_pos * functional.logsigmoid(-scores)).exp())

    def negative(self, scores: Tensor, gamma: float | Tensor) -> Tensor:
        """What a wrong column costs with this exponent."""
        if not self.clip:
            return self._focused(functional.softplus(scores), (gamma * functional.logsigmoid(scores)).exp())
        shifted = scores.sigmoid() - self.clip
        some = shifted > 0
        inside = torch.where(some, shifted, 0.5)
        return torch.where(some, self._focused(-torch.log1p(-inside), inside**gamma), 0.0)

    def _focused(self, entropy: Tensor, focus: Tensor) -> Tensor:
        if self.eps:
            entropy = entropy.clamp(max=-math.log(self.eps))
        return entropy * (focus.detach() if self.detach_focus else focus)


class MultiFocalModifier(AsymmetricMultiLabel):
    r"""Multi-focal modifier (COMIC): ASL times a class weight w_j, which is also added to the exponent of wrong columns.

    ``w_j = (1 - log(n_j / n_max))^power``, at least 1, larger for rarer classes.

    Arguments:
        class_counts: (C,) training examples of each class, >= 0; a class without any counts as one example.
        power: of the class weight, >= 0 (1/6; another copy of the released code has 1/3).
        gamma_neg, gamma_pos, clip, detach_focus, eps, columns: as :class:`AsymmetricMultiLabel`; detached by default.

    >>> import torch, torchlosses as tl
    >>> loss = tl.MultiFocalModifier(class_counts=torch.tensor([90, 10]))
    >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.1382)
    """

    card: ClassVar[Card] = Card(
        title="Learning in Imperfect Environment: Multi-Label Classification with Long-Tailed Distribution "
        "and Partial Labels",
        year=2023,
        identifier="arXiv:2304.10539",
        family="imbalance",
        formula=r"w_j\,\mathrm{ASL}(s_j, y_j;\ \gamma_- + w_j),\quad w_j=(1-\log(n_j/n_{\max}))^{1/6}",
        purpose="Multi-label classification with rare labels and annotations that are partly missing.",
        tasks=("classification",),
        aliases=(
            "COMIC",
            "MFM",
            "MultiGrainedFocalLoss",
            "multi-grained focal loss",
            "LabelCorrector",
            "reflective label corrector",
        ),
        detached="class weights; the focusing factors with detach_focus",
    )

    class_counts: Tensor = data("training examples of each class, (C,)")
    power: float = real(1 / 6, "power of the class weight", low=0, high=1)
    gamma_pos = 0.0
    detach_focus = True

    def setup(self) -> None:
        self.class_counts = checked_counts(self.class_counts)

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        known_counts(self.class_counts, recipe)

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        counts = positive_counts(self.class_counts, scores)
        weight = (1 - (counts / counts.max()).log()) ** self.power
        return weight * self.positive(scores), weight * self.negative(scores, self.gamma_neg + weight)


@torch.no_grad()
def recovered_labels(scores: Tensor, hot: Tensor, threshold: float = 0.7, margin: float = 1.0) -> Tensor:
    """Labels (B, L) with those added that the model is sure were forgotten (COMIC's reflective label corrector).

    A cell becomes right where ``p = sigmoid(s)`` exceeds ``threshold`` and the mean p of its column; ``margin`` is taken
    from the scores of right cells first. Use the result from some epoch on as the targets of :class:`MultiFocalModifier`.

    Arguments:
        scores: (B, L).
        hot: (B, L) boolean or 0/1.
        threshold: in [0, 1].
        margin: >= 0.

    Source: Learning in Imperfect Environment, 2023, arXiv:2304.10539.

    >>> import torch, torchlosses as tl
    >>> tl.recovered_labels(torch.tensor([[3.0, 2.0], [0.0, -2.0]]), torch.tensor([[1, 0], [0, 0]]))
    tensor([[ True,  True],
            [False, False]])
    """
    right = hot > 0
    p = (scores - margin * right.to(scores.dtype)).sigmoid()
    return right | ((p > threshold) & (p > p.mean(0)))


class PartialAsymmetric(AsymmetricMultiLabel):
    r"""Partial ASL: labels that nobody annotated count as wrong, with an exponent of their own.

    Targets are ``graded``: above 0 right, 0 annotated as wrong, below 0 not annotated; plain (B, L) tensors likewise.

    Arguments:
        gamma_unannotated: focusing exponent of the columns without annotation, >= 0.
        unannotated_weight: factor of their cost, >= 0; 0 leaves them out.
        gamma_neg, gamma_pos, clip, detach_focus, eps, columns: as :class:`AsymmetricMultiLabel`; detached by default.

    >>> import torch, torchlosses as tl
    >>> tl.PartialAsymmetric()(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, -1.0]]))
    tensor(0.4205)
    """

    card: ClassVar[Card] = Card(
        title="Multi-label Classification with Partial Annotations using Class-aware Selective Loss",
        year=2022,
        identifier="arXiv:2110.10955",
        family="imbalance",
        formula=r"\mathrm{ASL}\ \text{with}\ \gamma_-\ \text{in annotated and}\ \gamma_u\ \text{in other wrong columns}",
        purpose="Multi-label classification where most labels of an example were never checked.",
        aliases=("PartialASL", "CSL", "PartialSelectiveLoss", "partial asymmetric loss"),
        detached="the focusing factors with detach_focus",
        equals=("AsymmetricMultiLabel where everything is annotated",),
    )
    accepts = ("grade",)
    plain = "graded"

    gamma_unannotated: float = real(4.0, "focusing exponent without annotation", low=0, search=(1.0, 7.0))
    unannotated_weight: float = real(1.0, "factor of columns without annotation", low=0, search=(0.0, 1.0))
    gamma_neg = 1.0
    gamma_pos = 0.0
    detach_focus = True

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        positive, negative = self.parts(scores)
        unknown = self.unannotated_weight * self.negative(scores, self.gamma_unannotated)
        wrong = torch.where(targets.grade < 0, unknown, negative)
        return self.total(torch.where(targets.grade > 0, positive, wrong), targets)


class Hill(SigmoidLoss):
    r"""Hill loss: ``(1-p_m)^gamma`` focused right columns, p_m = sigmoid(s - margin), ``(lambda - p) p^2`` in wrong ones.

    The cost of a wrong column falls again above p = 2 lambda / 3: very confident "wrong" labels are taken for missing ones.

    Arguments:
        lam: where that cost would reach 0 again, >= 1.
        margin: taken from the scores of right columns.
        gamma: focusing exponent of right columns, >= 0.
        columns: 'sum' (the default) or 'mean' over the columns of a row; the released code also sums over the rows.

    >>> import torch, torchlosses as tl
    >>> tl.Hill()(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.2727)
    """

    card: ClassVar[Card] = Card(
        title="Simple and Robust Loss Design for Multi-Label Learning with Missing Labels",
        year=2021,
        identifier="arXiv:2112.07368",
        family="imbalance",
        formula=r"\sum_j -y_j(1-p^m_j)^\gamma\log p^m_j + (1-y_j)(\lambda-p_j)p_j^2,\quad p^m_j=\sigma(s_j-m)",
        purpose="Multi-label classification with missing positive labels.",
        tasks=("classification",),
        aliases=("HillLoss",),
    )

    lam: float = real(1.5, "where the cost of a wrong column would reach 0 again", low=1, search=(1.0, 2.0))
    margin: float = real(1.0, "taken from the scores of right columns", search=(0.0, 2.0))
    gamma: float = real(2.0, "focusing exponent of right columns", low=0, search=(0.0, 4.0))
    columns = "sum"

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        p, moved = scores.sigmoid(), scores - self.margin
        focus = (self.gamma * functional.logsigmoid(-moved)).exp()
        return focus * functional.softplus(-moved), (self.lam - p) * p.square()


class AsymmetricSingleLabel(RowLoss):
    r"""Asymmetric loss of the softmax: the target's log-probability times ``(1-p_y)^g+``, the others' times ``p_j^g-``.

    The other columns enter through label smoothing alone, applied after the factors.

    Arguments:
        gamma_pos, gamma_neg: focusing exponents of the right column and of the others, >= 0.
        label_smoothing: share of the target mass spread evenly over all columns, in [0, 1].

    >>> import torch, torchlosses as tl
    >>> tl.AsymmetricSingleLabel()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1206)
    """

    card: ClassVar[Card] = Card(
        title="Asymmetric Loss For Multi-Label Classification",
        year=2021,
        identifier="arXiv:2009.14119",
        family="imbalance",
        formula=r"-\sum_j q_j\,w_j\log p_j,\quad w_y=(1-p_y)^{\gamma_+},\ w_j=p_j^{\gamma_-}",
        purpose="Single-label classification with asymmetric focusing.",
        tasks=("classification",),
        aliases=("ASLSingleLabel", "AsymmetricLossSingleLabel"),
        equals=("CrossEntropy at gamma=0", "Focal at label_smoothing=0"),
    )

    gamma_pos: float = real(0.0, "focusing exponent of the right column", low=0, search=(0.0, 2.0))
    gamma_neg: float = real(4.0, "focusing exponent of the other columns", low=0, search=(0.0, 6.0))
    label_smoothing: float = real(0.1, "share of the mass spread over all columns", low=0, high=1, search=(0.0, 0.3))

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        log_p = torch.where(targets.valid, scores - targets.logsumexp(scores)[:, None], 0.0)
        rest = targets.logsumexp(scores, targets.negative)
        some = torch.isfinite(rest.detach())
        log_other = torch.where(some, torch.where(some, rest, 0.0) - targets.logsumexp(scores), -torch.inf)
        right = targets.target(log_p)
        if self.gamma_pos:
            right = right * torch.where(some, (self.gamma_pos * torch.where(some, log_other, 0.0)).exp(), 0.0)
        spread = self.label_smoothing / targets.count().clamp(min=1)
        wrong = targets.sum((self.gamma_neg * log_p).exp() * log_p, targets.negative)
        return -(1 - self.label_smoothing + spread) * right - spread * wrong


__all__ = [
    "AsymmetricMultiLabel",
    "AsymmetricSingleLabel",
    "Hill",
    "MultiFocalModifier",
    "PartialAsymmetric",
    "recovered_labels",
]
