"""The AUC as a mean over pairs, and its pointwise stand-ins."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import choice, real
from torchlosses.losses.auc.labels import ByLabel
from torchlosses.losses.auc.pairs import PHI, mean_over_pairs, phi_of


class PairwiseAUC(ByLabel):
    r"""Mean over all pairs of a positive and a negative of :math:`\phi((s_p-s_q)/T)`, a surrogate of 1 - AUC.

    Arguments:
        phi: of t = (s_p - s_q)/T: 'squared_hinge' relu(m-t)^2, 'hinge', 'square' (m-t)^2, 'logistic' softplus(-t),
            'exponential' exp(-t), 'sigmoid', 'savage', 'barrier_hinge' max(m-c(m+t), c(t-m), m-t).
        margin: m of the hinges and the square; >= 0 for the barrier hinge.
        slope: c >= 1 of the barrier hinge.
        temperature: T > 0.

    The hinges are exact in O(n log n) by sorting, 'square' and 'exponential' in O(n); the others form the pairs, a few
    million at a time. Call with scores (B,) or (B, L), one problem per column, and 0/1 targets of that shape.

    >>> import torch, torchlosses as tl
    >>> tl.PairwiseAUC(phi="hinge")(torch.tensor([0.5, 0.2, 0.9]), torch.tensor([1, 0, 0]))
    tensor(1.0500)
    """

    card: ClassVar[Card] = Card(
        title="On the Consistency of AUC Pairwise Optimization",
        year=2015,
        identifier="arXiv:1208.0645",
        family="auc",
        formula=r"\frac1{|P||N|}\sum_{p,q}\phi((s_p-s_q)/T)",
        purpose="Rank positives above negatives under any imbalance: optimise the AUC.",
        tasks=("classification",),
        scores="linear",
        aliases=("PairwiseAUCLoss", "AUROC loss", "Mann-Whitney", "WMW", "AUC-M pairwise", "AllPairs"),
        cost="O(n log n) hinges, O(n) square and exponential, O(|P||N|) time otherwise",
        over="labels (columns) with both kinds",
        note="running sums are float64; 'exponential' continues linearly above 80 in the logarithm of the mean",
    )
    copies = 48.0  # running sums in float64

    phi: str = choice("squared_hinge", "function of the score difference", options=PHI, search=PHI[:4])
    margin: float = real(1.0, "margin of the hinges and the square", search=(0.1, 3.0, "log"))
    slope: float = real(2.0, "slope of the barrier hinge", low=1)
    temperature: float = real(1.0, "divides the scores", above=0, search=(0.1, 5.0, "log"))

    def setup(self) -> None:
        if self.phi == "barrier_hinge" and self.margin < 0:
            raise ValueError(f"margin: expected a number >= 0 with phi='barrier_hinge', got {self.margin!r}")

    def prescale(self) -> float:
        return 1.0 / self.temperature

    def rule(self, scores: Tensor, targets: Block) -> Returned:
        value, some = mean_over_pairs(self.phi, scores, targets, self.margin, self.slope)
        return torch.where(some, value, 0.0), some.to(scores.dtype)


class MacroAUC(PairwiseAUC):
    r"""Macro-averaged AUC of many labels: pairs, or pointwise losses with or without balanced weights.

    Arguments:
        kind: 'pairwise' (PairwiseAUC of every label), 'univariate' (mean over examples of :math:`\phi(\tilde Y s)`,
            :math:`\tilde Y=\pm1`), 'reweighted' (mean over the positives of :math:`\phi(s)` plus mean over the negatives of
            :math:`\phi(-s)`; a label of one kind has one mean).
        phi, margin, slope, temperature: as PairwiseAUC.

    Call with scores (B, L) and 0/1 targets of that shape. The mean is over labels, with 'pairwise' over those with both
    kinds.

    >>> import torch, torchlosses as tl
    >>> scores = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    >>> tl.MacroAUC(kind="reweighted")(scores, torch.tensor([[1, 1], [0, 1]]))
    tensor(0.5005)
    """

    card: ClassVar[Card] = Card(
        title="Towards Understanding Generalization of Macro-AUC in Multi-label Learning",
        year=2023,
        identifier="arXiv:2305.05248",
        family="auc",
        formula=r"\frac1K\sum_k\Big[\frac1{|P_k|}\sum_{p}\phi(s_{pk})+\frac1{|N_k|}\sum_q\phi(-s_{qk})\Big]",
        purpose="Multi-label learning judged by macro-AUC; 'pairwise' and 'reweighted' do not suffer from label imbalance.",
        tasks=("classification",),
        scores="linear",
        aliases=("macro-AUC", "u1 (univariate)", "u2 (reweighted univariate)"),
        cost="O(BL) pointwise; as PairwiseAUC",
        over="labels",
        equals=("PairwiseAUC: kind='pairwise'",),
    )

    kind: str = choice(
        "pairwise",
        "how a label's examples are compared",
        options=("pairwise", "univariate", "reweighted"),
        search=("pairwise", "reweighted"),
    )
    phi: str = choice("logistic", "function of the score difference", options=PHI, search=PHI[:4])

    def rule(self, scores: Tensor, targets: Block) -> Returned:
        if self.kind == "pairwise":
            return super().rule(scores, targets)
        upper, lower = targets.positive, targets.negative
        value = phi_of(self.phi, torch.where(upper, scores, -scores), self.margin, self.slope)
        if self.kind == "univariate":
            return targets.mean(value)
        return targets.mean(value, upper) + targets.mean(value, lower)
