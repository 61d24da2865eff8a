"""Partial AUC and average precision: pairs weighted by what is remembered of every positive example."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome
from torchlosses.hyperparameters import choice, real
from torchlosses.losses.auc.labels import Remembering
from torchlosses.losses.auc.pairs import PHI, phi_of


class PartialAUC(Remembering):
    r"""One-way or two-way partial AUC: the hard negatives of every positive weigh more, by a memory of that positive.

    With :math:`l_{pq}=\phi(s_p-s_q)` and constant weights:

    - 'cvar': mean over pairs of :math:`1[l_{pq}>u_p]\,l_{pq}/\beta` with the old u, then
      :math:`u_p\leftarrow u_p-\eta(1-\mathrm{mean}_q1[l_{pq}>u_p]/\beta)`: the top share beta of the negatives.
    - 'kl': :math:`u_p\leftarrow(1-\gamma)u_p+\gamma\,\mathrm{mean}_qe^{l/\lambda}`, then the mean of
      :math:`(e^{l/\lambda}/u_p)\,l`: a soft version.
    - 'two_way_kl': u as before, :math:`W\leftarrow(1-\gamma_W)W+\gamma_W\mathrm{mean}_pu_p^{\lambda/\tau}`, then the mean of
      :math:`u_p^{\lambda/\tau-1}e^{l/\lambda}l/W`: hard positives weigh more too.

    Arguments:
        examples, classes: numbers of training examples and of labels (columns); ids lie in [0, examples).
        kind: 'cvar', 'kl' or 'two_way_kl'.
        beta: share of negatives of 'cvar', in (0, 1]. eta: step of u, > 0.
        negative_temperature: lambda > 0; positive_temperature: tau > 0.
        rate: gamma in (0, 1]; rate_total: gamma_W in (0, 1].
        phi, margin, slope: the surrogate, as PairwiseAUC.

    Needs ``targets.given(ids=...)`` (B,) in training mode. u and W start at 0; the buffer ``memory`` holds u,
    its logarithm with the KL kinds, and ``total`` log W.

    >>> import torch, torchlosses as tl
    >>> loss = tl.PartialAUC(examples=10, kind="kl")
    >>> targets = tl.multi_label(torch.tensor([[1], [0], [0]])).given(ids=torch.tensor([4, 5, 6]))
    >>> loss(torch.tensor([[0.5], [0.2], [0.9]]), targets)
    tensor(1.8724)
    """

    card: ClassVar[Card] = Card(
        title="When AUC meets DRO: Optimizing Partial AUC for Deep Learning with Non-Convex Convergence Guarantee",
        year=2022,
        identifier="arXiv:2203.00176",
        family="auc",
        formula=r"\frac1{|P||N|}\sum_{p,q}\mathrm{sg}[e^{l_{pq}/\lambda}/u_p]\,l_{pq}",
        purpose="Rank well where it counts: at low false positive rates (and high true positive rates).",
        tasks=("classification",),
        scores="linear",
        aliases=("pAUC_CVaR_Loss", "pAUCLoss", "SOPA", "SOPA-s", "SOTA-s", "tpAUC_KL_Loss", "tpAUC_CVaR_Loss"),
        cost="O(B^2) per label, one number per example",
        over="labels with both kinds",
        detached="all weights",
        note="the KL memories are kept as logarithms, so no surrogate overflows",
    )
    kind: str = choice("kl", "how hard negatives weigh", options=("cvar", "kl", "two_way_kl"))
    beta: float = real(0.2, "share of negatives", above=0, high=1, search=(0.05, 0.5))
    eta: float = real(0.1, "step of the memory", above=0, search=(0.01, 1.0, "log"))
    negative_temperature: float = real(1.0, "temperature over negatives", above=0, search=(0.1, 10.0, "log"))
    positive_temperature: float = real(1.0, "temperature over positives", above=0, search=(0.1, 10.0, "log"))
    rate: float = real(0.9, "rate of the memory", above=0, high=1, search=(0.1, 1.0))
    rate_total: float = real(0.9, "rate of the memory over positives", above=0, high=1)
    phi: str = choice("squared_hinge", "function of the score difference", options=PHI)
    margin: float = real(1.0, "margin of the hinges and the square", search=(0.1, 3.0, "log"))
    slope: float = real(2.0, "slope of the barrier hinge", low=1)

    memory: Tensor
    total: Tensor

    def memories(self) -> dict[str, float]:
        return {"memory": 0.0 if self.kind == "cvar" else -math.inf}

    def setup(self) -> None:
        super().setup()
        self.register_buffer("total", torch.full((self.classes,), -torch.inf))

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"total": self.total.clone(), **super().prepare(fields, batch)}

    def commit(self, updates: dict[str, Tensor], fields: dict[str, Tensor]) -> None:
        super().commit(updates, fields)
        self.total.copy_(updates["total"])

    def temporaries(self, columns: int) -> float:
        return 8.0 + 6.0 * columns  # about six (b, B, B)

    def rule(self, scores: Tensor, targets: Block, *, memory: Tensor, total: Tensor, ids: Tensor | None = None) -> Outcome:
        upper, lower = targets.positive, targets.negative
        pairs = upper[:, :, None] & lower[:, None, :]
        n_lower = targets.count(lower).clamp(min=1)
        some = (targets.count(upper) > 0) & (targets.count(lower) > 0)
        loss = torch.where(pairs, phi_of(self.phi, targets.differences(scores), self.margin, self.slope), 0.0)
        old = memory.to(scores.dtype)
        if self.kind == "cvar":
            chosen = (pairs & (loss.detach() > old[:, :, None])).to(scores.dtype)
            weight = chosen / self.beta
            moved = old - self.eta * (1 - chosen.sum(-1) / n_lower[:, None] / self.beta)
        else:
            tilt = torch.where(pairs, loss.detach() / self.negative_temperature, -torch.inf)
            moved = _log_average(old, tilt.logsumexp(-1) - n_lower.log()[:, None], self.rate)
            known = torch.where(upper & some[:, None], moved, 0.0)
            exponent = tilt - known[:, :, None]
            if self.kind == "two_way_kl":
                power = self.negative_temperature / self.positive_temperature
                mean = targets.logsumexp(power * known, upper) - targets.count(upper).clamp(min=1).log()
                before = total.to(scores.dtype)
                total = torch.where(some, _log_average(before, mean, self.rate_total), before)
                exponent = exponent + torch.where(some[:, None], power * known - total[:, None], 0.0)[:, :, None]
            weight = exponent.exp()
        value = targets.mean((weight * loss).sum(-1) / n_lower[:, None], upper)
        moved = torch.where(upper & some[:, None], moved, old)
        return Outcome({"loss": (value, some.to(scores.dtype))}, {"memory": moved, "total": total})


class AveragePrecision(Remembering):
    r"""Average precision by stochastic optimisation (SOAP).

    The mean of :math:`\mathrm{sg}[(P_p-U_p1[k\in P])/U_p^2]\,l_{pk}` with :math:`l_{pk}=\phi(s_p-s_k)`, over positives p and
    all examples k (p too). U_p and P_p are moving averages of :math:`\mathrm{mean}_kl_{pk}` and
    :math:`\mathrm{mean}_k1[k\in P]l_{pk}`, moved before they are used.

    Arguments:
        examples, classes: numbers of training examples and of labels (columns); ids lie in [0, examples).
        rate: gamma in (0, 1].
        phi, margin, slope: the surrogate, as PairwiseAUC.

    The value is near 0; the gradient is what matters. Needs ``targets.given(ids=...)`` (B,) in training mode.

    >>> import torch, torchlosses as tl
    >>> loss = tl.AveragePrecision(examples=10)
    >>> scores = torch.tensor([[0.5], [0.2], [0.9]], requires_grad=True)
    >>> loss(scores, tl.multi_label(torch.tensor([[1], [0], [0]])).given(ids=torch.tensor([4, 5, 6]))).backward()
    >>> scores.grad.flatten()
    tensor([-0.3921,  0.1307,  0.2614])
    """

    card: ClassVar[Card] = Card(
        title="Stochastic Optimization of Areas Under Precision-Recall Curves with Provable Convergence",
        year=2021,
        identifier="arXiv:2104.08736",
        family="auc",
        formula=r"\frac1{|P|n}\sum_{p,k}\mathrm{sg}\Big[\frac{P_p-U_p1[k\in P]}{U_p^2}\Big]l_{pk}",
        purpose="Optimise the area under the precision-recall curve when positives are rare.",
        tasks=("classification",),
        scores="linear",
        aliases=("APLoss", "SOAP", "AUPRCLoss"),
        cost="O(B^2) per label, two numbers per example",
        over="labels with positives",
        detached="all weights",
    )
    rate: float = real(0.9, "rate of the memories", above=0, high=1, search=(0.1, 1.0))
    phi: str = choice("squared_hinge", "function of the score difference", options=PHI)
    margin: float = real(1.0, "margin of the hinges and the square", search=(0.1, 3.0, "log"))
    slope: float = real(2.0, "slope of the barrier hinge", low=1)

    everyone: Tensor
    positives: Tensor

    def memories(self) -> dict[str, float]:
        return {"everyone": 0.0, "positives": 0.0}

    def temporaries(self, columns: int) -> float:
        return 8.0 + 6.0 * columns  # about six (b, B, B)

    def rule(
        self, scores: Tensor, targets: Block, *, everyone: Tensor, positives: Tensor, ids: Tensor | None = None
    ) -> Outcome:
        upper = targets.positive
        pairs = upper[:, :, None] & targets.valid[:, None, :]
        n = targets.count().clamp(min=1)[:, None]
        loss = torch.where(pairs, phi_of(self.phi, targets.differences(scores), self.margin, self.slope), 0.0)
        hit = upper.to(scores.dtype)[:, None, :]
        moved = []
        for old, mean in ((everyone, loss.detach().sum(-1) / n), (positives, (loss.detach() * hit).sum(-1) / n)):
            kept = old.to(scores.dtype)
            moved.append(torch.where(upper, (1 - self.rate) * kept + self.rate * mean, kept))
        whole = torch.where(moved[0] > 0, moved[0], 1.0)
        weight = ((moved[1] / whole)[:, :, None] - hit) / whole[:, :, None]
        value = targets.mean((weight * loss).sum(-1) / n, upper)
        some = (targets.count(upper) > 0).to(scores.dtype)
        return Outcome({"loss": (value, some)}, {"everyone": moved[0], "positives": moved[1]})


def _log_average(old: Tensor, new: Tensor, rate: float) -> Tensor:
    """log((1 - rate) e^old + rate e^new)."""
    keep = math.log1p(-rate) if rate < 1 else -math.inf
    return torch.logaddexp(old + keep, new + math.log(rate))
