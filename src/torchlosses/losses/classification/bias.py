"""The bias loss: cross-entropy weighted by how varied a row's features are."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome, Returned, Summary
from torchlosses.hyperparameters import choice, real
from torchlosses.loss import RowLoss


class BiasLoss(RowLoss):
    r"""Bias loss: cross-entropy times ``exp(alpha u) - beta``, u the scaled variance of the row's features.

    ``u = (v - low) / (largest - smallest v of the batch)``, where v is the unbiased variance over all entries of a row's
    features and carries no gradient. All variances equal: u = 0.

    Arguments:
        alpha: >= 0.
        beta: in [0, 1].
        normalization: low is the smallest variance of the 'batch', or the smallest 'ever' seen, this batch included.

    Needs ``targets.given(features=maps)`` (B, ...), the last convolution's output. Buffer ``least_variance`` moves in
    training mode only. Ignored rows have no part in the statistics.

    >>> import torch, torchlosses as tl
    >>> targets = tl.classes(torch.tensor([0, 0])).given(features=torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    >>> tl.BiasLoss(reduction="none")(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), targets)
    tensor([0.0888, 0.1333])
    """

    card: ClassVar[Card] = Card(
        title="Bias Loss for Mobile Neural Networks",
        year=2021,
        identifier="arXiv:2107.11170",
        family="classification",
        formula=r"-\left(e^{\alpha u}-\beta\right)\log p_y",
        purpose="Small convolutional networks: look first at images whose features say much.",
        aliases=("bias loss",),
        over="rows; not the sum of the weights",
        detached="the weights",
    )
    accepts = ("probability",)
    summary = ("lse", "target")

    alpha: float = real(0.3, "how much variance counts", low=0, search=(0.1, 1.0))
    beta: float = real(0.3, "taken from every weight", low=0, high=1, search=(0.0, 0.5))
    normalization: str = choice("ever", "what the variance is measured from", options=("batch", "ever"))

    least_variance: Tensor

    def setup(self) -> None:
        self.register_buffer("least_variance", torch.tensor(torch.inf))

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        if "features" not in fields:
            raise TypeError(
                "features: BiasLoss needs the rows' features (B, ...); attach them with targets.given(features=x)"
            )
        features = fields["features"].detach()
        if features.dim() < 2 or (features[:1].numel() < 2 and batch.rows):
            raise ValueError(f"features: expected (B, ...) of two entries or more, got {tuple(features.shape)}")
        variance = features.flatten(1).to(batch.dtype).var(1)
        nothing = variance.new_full((1,), torch.inf)  # stands for a batch without counted rows
        counted = batch.targets.counted
        least = torch.cat([torch.where(counted, variance, torch.inf), nothing]).amin()
        span = torch.cat([torch.where(counted, variance, -torch.inf), -nothing]).amax() - least
        low = least if self.normalization == "batch" else torch.minimum(least, self.least_variance.to(least))
        u = torch.where(span > 0, (variance - low) / torch.where(span > 0, span, 1.0), 0.0)
        return {"bias": (self.alpha * u).exp() - self.beta, "least": least}

    def from_summary(self, row: Summary, targets: Block, *, bias: Tensor, least: Tensor, **fields: Tensor) -> Returned:
        value = (row.mass * row.lse - row.target) * bias
        return Outcome({"loss": (value, None)}, {"least": least.expand(value.shape)})

    def commit(self, updates: dict[str, Tensor], fields: dict[str, Tensor]) -> None:
        if not updates["least"].numel():
            return
        self.least_variance.copy_(torch.minimum(self.least_variance, updates["least"].min().to(self.least_variance)))
