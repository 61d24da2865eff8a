"""Rules on single responses that are known to be good or bad."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import real
from torchlosses.loss import RowLoss


class KTO(RowLoss):
    r"""Kahneman-Tversky optimization: :math:`w_d\,(1-\sigma(r-z_0))` for good rows, :math:`w_u\,(1-\sigma(z_0-r))` for bad.

    Arguments:
        desirable_weight, undesirable_weight: >= 0.

    Scores: ``implicit_reward(policy, reference, beta)`` of one response per row, (B,) or (B, 1). Targets:
    ``desirable(label)``.
    The reference point z0 is a field, () or (B,): ``given(baseline=z0)``, in the units of the reward; or
    ``given(kl=beta * (kl_logps - ref_kl_logps))`` of mismatched pairs, from which z0 = max(0, mean) over the batch.
    Never differentiated. A batch with one kind of rows only is a mean over these.

    >>> import torch, torchlosses as tl
    >>> rewards, label = torch.tensor([[1.0], [1.0]]), torch.tensor([True, False])
    >>> tl.KTO(reduction="none")(rewards, tl.desirable(label), baseline=torch.tensor(0.0))
    tensor([0.2689, 0.7311])
    """

    card: ClassVar[Card] = Card(
        title="KTO: Model Alignment as Prospect Theoretic Optimization",
        year=2024,
        identifier="arXiv:2402.01306",
        family="preference",
        formula=r"w\left(1-\sigma(\pm(\beta u-z_0))\right)",
        purpose="Align a model with single responses marked good or bad.",
        scores="reward",
        aliases=("KTOTrainer", "LigerFusedLinearKTOLoss", "loss_type='kto'"),
        detached="the reference and the reference point",
    )
    accepts = ("desirable",)

    desirable_weight: float = real(1.0, "weight of desirable rows", low=0, search=(0.5, 2.0, "log"))
    undesirable_weight: float = real(1.0, "weight of undesirable rows", low=0, search=(0.5, 2.0, "log"))

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        if "baseline" in fields:
            return {}
        if "kl" not in fields:
            raise TypeError(
                "baseline: KTO needs its reference point; attach targets.given(baseline=z0) or given(kl=rewards of "
                "mismatched pairs)"
            )
        return {"baseline": fields["kl"].detach().double().mean().clamp(min=0)}

    def rule(self, scores: Tensor, targets: Block, *, baseline: Tensor, kl: Tensor | None = None) -> Returned:
        advantage = scores.squeeze(1) - baseline.detach().to(scores.dtype)
        good = targets.desirable
        value = 1 - torch.where(good, advantage, -advantage).sigmoid()
        more = self.desirable_weight - self.undesirable_weight
        return value * (self.undesirable_weight + more * good.to(scores.dtype))
