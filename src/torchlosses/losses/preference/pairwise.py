"""Rules on the margin between a preferred response and the others."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import choice, flag, real
from torchlosses.loss import RowLoss
from torchlosses.losses.surrogates import surrogate

LINKS = {"truncated_quadratic": "squared_hinge", "squared": "square"}


class GPO(RowLoss):
    r"""Generalized preference optimization: :math:`\sum_j f(s_w-s_j-\gamma)` over the responses j that were not preferred.

    Arguments:
        link: f is 'logistic' log(1+e^-z) (DPO), 'hinge' max(0,1-z) (SLiC), 'squared' (z-1)^2 (IPO up to scale),
            'exponential' e^-z, 'truncated_quadratic' max(0,1-z)^2 or 'savage' 1/(1+e^z)^2.
        label_smoothing: share of preferences taken as reversed, [0, 0.5] (conservative DPO).
        margin: gamma, subtracted from the difference (SimPO; after beta).

    Scores: ``implicit_reward(policy, reference, beta)`` (B, K), plain rewards, averaged log-probabilities times beta.
    Targets: ``preferred()`` (column 0) or ``classes``. Fields: ``margin`` (B,) per pair, added to gamma; ``target`` (B,)
    probability that the preference is right, in place of 1 - label_smoothing.

    >>> import torch, torchlosses as tl
    >>> rewards = tl.implicit_reward(torch.tensor([[-1.0, -5.0]]), torch.tensor([[-2.0, -2.0]]), beta=0.1)
    >>> tl.GPO(link="hinge")(rewards, tl.preferred())
    tensor(0.6000)
    """

    card: ClassVar[Card] = Card(
        title="Generalized Preference Optimization: A Unified Approach to Offline Alignment",
        year=2024,
        identifier="arXiv:2402.05749",
        family="preference",
        formula=r"f\left(\beta(u_w-u_l)-\gamma\right)",
        purpose="Align a model with pairwise preferences by a convex link of the implicit reward margin.",
        scores="reward",
        aliases=("loss_type", "SimPO", "CPO", "ODPO", "Bradley-Terry reward loss", "cDPO", "MMPO"),
        detached="the reference",
        equals=("DPO: link='logistic'", "SLiC: link='hinge'", "IPO: link='squared' over 4 tau^2"),
        note="the exponential link continues linearly above 80",
    )
    accepts = ("index",)

    link: str = choice(
        "logistic",
        "function of the margin",
        options=("logistic", "hinge", "squared", "exponential", "truncated_quadratic", "savage"),
    )
    label_smoothing: float = real(0.0, "share of reversed preferences", low=0, high=0.5, search=(0.0, 0.3))
    margin: float = real(0.0, "subtracted from the difference", search=(0.0, 2.0))

    def rule(
        self, scores: Tensor, targets: Block, *, margin: Tensor | None = None, target: Tensor | None = None
    ) -> Returned:
        shift = self.margin if margin is None else self.margin + margin.to(scores.dtype)[:, None]
        difference = targets.target(scores)[:, None] - scores - shift
        value = self._link(difference)
        if target is not None or self.label_smoothing:
            right = 1 - self.label_smoothing if target is None else target.to(scores.dtype)[:, None]
            value = right * value + (1 - right) * self._link(-difference)
        return targets.sum(value, targets.negative)

    def _link(self, difference: Tensor) -> Tensor:
        return surrogate(LINKS.get(self.link, self.link), difference)


class DPO(GPO):
    r"""Direct preference optimization: :math:`\log(1+e^{-\beta(u_w-u_l)})`; beta is :func:`implicit_reward`'s.

    >>> import torch, torchlosses as tl
    >>> tl.DPO()(tl.implicit_reward(torch.tensor([[-1.0, -5.0]]), torch.tensor([[-2.0, -2.0]])), tl.preferred())
    tensor(0.5130)
    """

    card = Card(
        title="Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
        year=2023,
        identifier="arXiv:2305.18290",
        family="preference",
        formula=r"\log\left(1+e^{-\beta(u_w-u_l)}\right)",
        purpose="Align a language model with pairwise preferences, without a reward model.",
        scores="reward",
        aliases=("DPOLoss", "LigerFusedLinearDPOLoss", "loss_type='sigmoid'", "cDPO", "BradleyTerry"),
        detached="the reference",
        equals=("GPO(link='logistic')", "RankNet on lists of two"),
    )


class SLiC(GPO):
    r"""Sequence likelihood calibration: :math:`\max(0,1-\beta(u_w-u_l))`; without a reference, SLiC-HF.

    >>> import torch, torchlosses as tl
    >>> tl.SLiC()(torch.tensor([[0.4, 0.0]]), tl.preferred())
    tensor(0.6000)
    """

    card = Card(
        title="SLiC-HF: Sequence Likelihood Calibration with Human Feedback",
        year=2023,
        identifier="arXiv:2305.10425",
        family="preference",
        formula=r"\max(0,\,1-\beta(u_w-u_l))",
        purpose="Align a language model with preferences that count until they hold by a margin.",
        scores="reward",
        aliases=("loss_type='hinge'", "SLiC-HF", "RSO"),
        detached="the reference",
        equals=("GPO(link='hinge')",),
    )
    link = "hinge"


class IPO(GPO):
    r"""Identity preference optimization: :math:`(u_w-u_l-\tfrac{1}{2\tau})^2`.

    Arguments:
        tau: strength of the regularization, > 0.

    Scores: ``implicit_reward(policy, reference, beta=1)`` of log-probabilities summed (the paper) or averaged over tokens
    (current libraries).

    >>> import torch, torchlosses as tl
    >>> tl.IPO(tau=0.5)(torch.tensor([[0.4, 0.0]]), tl.preferred())
    tensor(0.3600)
    """

    card = Card(
        title="A General Theoretical Paradigm to Understand Learning from Human Preferences",
        year=2023,
        identifier="arXiv:2310.12036",
        family="preference",
        formula=r"\left(u_w-u_l-\frac{1}{2\tau}\right)^2",
        purpose="Align with preferences without driving the margin to infinity.",
        scores="reward",
        aliases=("loss_type='ipo'", "CPO-IPO"),
        detached="the reference",
        equals=("GPO(link='squared') / (4 tau^2) at beta = 2 tau",),
    )
    link = "squared"
    tau: float = real(0.1, "strength of the regularization", above=0, search=(0.01, 1.0, "log"))

    def _link(self, difference: Tensor) -> Tensor:
        return surrogate("square", difference, 1 / (2 * self.tau))


class ORPO(RowLoss):
    r"""Odds-ratio preference optimization: NLL of the preferred response plus :math:`\lambda\log(1+e^{-\beta(o_w-o_l)})`.

    o(z) = z - log(1 - e^z) is the log-odds of the length-averaged log-probability z < 0, of which the probability counts
    as at most 1 - 1e-7. Scores: averaged log-probabilities (B, K), the preferred one by ``preferred()`` or ``classes``.

    Arguments:
        weight: lambda >= 0. beta: >= 0, inside the link. with_nll: whether the NLL term is added.

    Two terms, ``nll`` and ``odds_ratio``. The NLL of a row is minus its averaged log-probability; a field ``nll`` (B,) or ()
    replaces it (a token mean over the batch, for instance).

    >>> import torch, torchlosses as tl
    >>> tl.ORPO()(torch.tensor([[-0.5, -1.0]]), tl.preferred())
    tensor(0.5320)
    """

    card: ClassVar[Card] = Card(
        title="ORPO: Monolithic Preference Optimization without Reference Model",
        year=2024,
        identifier="arXiv:2403.07691",
        family="preference",
        formula=r"-z_w+\lambda\log\left(1+e^{-\beta(o_w-o_l)}\right),\quad o=z-\log(1-e^z)",
        purpose="Fine-tune and align in one stage, without a reference model.",
        scores="reward",
        aliases=("ORPOTrainer", "LigerFusedLinearORPOLoss"),
        note="probabilities are clamped at 1 - 1e-7, where the gradient of the log-odds is 0",
    )
    accepts = ("index",)

    weight: float = real(0.1, "weight of the odds-ratio term", low=0, search=(0.01, 1.0, "log"))
    beta: float = real(1.0, "factor of the log-odds", low=0)
    with_nll: bool = flag(True, "whether the NLL term is added")

    def rule(self, scores: Tensor, targets: Block, *, nll: Tensor | None = None) -> Returned:
        odds = log_odds(scores)
        difference = self.beta * (targets.target(odds)[:, None] - odds)
        ratio = self.weight * targets.sum(surrogate("logistic", difference), targets.negative)
        if not self.with_nll:
            return {"odds_ratio": ratio}
        row = -targets.target(scores) if nll is None else nll.to(scores.dtype).expand(scores.shape[0])
        return {"nll": row, "odds_ratio": ratio}


def log_odds(z: Tensor) -> Tensor:
    """z - log(1 - e^z) for log-probabilities z, e^z taken as at most 1 - 1e-7."""
    z = z.clamp(max=-1e-7)
    near = z > -0.6931471805599453
    small = torch.where(near, z, -1.0)
    return z - torch.where(near, (-small.expm1()).log(), (-torch.where(near, -1.0, z).exp()).log1p())
