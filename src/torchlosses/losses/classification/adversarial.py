"""Comp-sum losses against adversarial examples."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.target_probability import comp_sum


class SmoothAdversarialCompSum(RowLoss):
    r"""Smooth adversarial comp-sum loss: a comp-sum loss, plus how far an attack moves the differences of scores.

    ``Phi_tau(sum over j != y of exp((s_j - s_y) / rho)) + nu |D' - D|``, where ``D_j = s_y - s_j`` and D' is the same of the
    attacked example; the norm is Euclidean, with gradient 0 where both are equal.

    Arguments:
        tau: which comp-sum loss, in [0, 2]; 1 is cross-entropy (:class:`CompSum`).
        rho: temperature of the first part, > 0.
        nu: factor of the second, >= 0; the theory asks for at least sqrt(C - 1) / rho.

    Needs ``targets.given(adversarial=scores)`` (B, C), the scores of the attacked inputs; gradient flows through both.

    >>> import torch, torchlosses as tl
    >>> targets = tl.classes(torch.tensor([0])).given(adversarial=torch.tensor([[1.0, 0.0]]))
    >>> tl.SmoothAdversarialCompSum()(torch.tensor([[2.0, 0.0]]), targets)
    tensor(1.1269)
    """

    card: ClassVar[Card] = Card(
        title="Cross-Entropy Loss Functions: Theoretical Analysis and Applications",
        year=2023,
        identifier="arXiv:2304.07288",
        family="classification",
        formula=r"\Phi_\tau\left(\sum_{j\ne y}e^{(s_j-s_y)/\rho}\right)+\nu\,\|\Delta(x')-\Delta(x)\|_2",
        purpose="Classifiers that withstand attacks; the attack maximizes the second part.",
        aliases=("ADV-COMP-SUM", "adversarial comp-sum"),
        equals=("CompSum(tau) at rho=1, nu=0",),
        note="rho and nu of the paper's experiments are not known to us. For tau < 1 see CompSum.",
    )
    accepts = ("index",)

    tau: float = real(1.0, "which comp-sum loss", low=0, high=2, search=(0.5, 2.0))
    rho: float = real(1.0, "temperature of the first part", above=0, search=(0.1, 10.0, "log"))
    nu: float = real(1.0, "factor of the second part", low=0, search=(0.1, 10.0, "log"))

    def rule(self, scores: Tensor, targets: Block, *, adversarial: Tensor, **fields: Tensor) -> Returned:
        if adversarial.shape != scores.shape:
            raise ValueError(
                f"adversarial: expected (rows, {scores.shape[1]}) as the scores, got {tuple(adversarial.shape)}"
            )
        scaled = scores / self.rho
        odds = targets.logsumexp(scaled, targets.negative) - targets.target(scaled)
        moved = torch.where(targets.valid, adversarial.to(scores.dtype), 0.0) - scores
        square = targets.sum((targets.target(moved)[:, None] - moved).square())
        some = square > 0
        norm = torch.where(some, torch.where(some, square, 1.0).sqrt(), 0.0)
        return comp_sum(-softplus(odds), self.tau) + self.nu * norm
