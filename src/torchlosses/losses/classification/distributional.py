"""Label-distributionally robust losses: a worst case over labels, softened by a temperature of each example."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome, Returned
from torchlosses.hyperparameters import data, flag, real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.differences import differences, normalized
from torchlosses.losses.ids import checked_ids, last_rows

# The smallest temperature: at alpha = 1 the paper's update can reach 0.
TEMPERATURE_FLOOR = 1e-3


class ALDR(RowLoss):
    r"""ALDR-KL: the label-distributionally robust loss with an adaptive temperature for every training example.

    With ``z`` the scores divided by their mean absolute value and ``d_j = margin [j != y] + z_j - z_y``::

        lambda_i (log mean_j exp(d_j / lambda_i)) - alpha log(C) / (2 lambda_0) (lambda_i - lambda_0)^2

    ``lambda_i`` is first moved to ``lambda_0 (1 - KL(softmax(z / lambda_i) | uniform) / (alpha log C))``, a constant for
    the gradient, and kept in the buffer ``temperatures`` (training mode only).

    Arguments:
        examples: number of training examples; ids lie in [0, examples).
        lambda0: the temperature every example starts with, > 0.
        margin: >= 0.
        alpha: how little temperatures move, >= 1.
        softplus: take the softplus of the scores first.

    Needs ``targets.given(ids=...)`` (B,) in training mode; in evaluation without ids every temperature is lambda0. Of
    equal ids in one batch the last one is kept.

    >>> import torch, torchlosses as tl
    >>> loss = tl.ALDR(examples=10)
    >>> loss(torch.tensor([[2.0, 0.0]]), tl.classes(torch.tensor([0])).given(ids=torch.tensor([7])))
    tensor(-0.3856)
    >>> bool(loss.temperatures[7] < 1)
    True
    """

    card: ClassVar[Card] = Card(
        title="Label Distributionally Robust Losses for Multi-class Classification: Consistency, Robustness and Adaptivity",
        year=2023,
        identifier="arXiv:2112.14869",
        family="classification",
        formula=r"\lambda_i\log\tfrac1C\sum_j e^{d_j/\lambda_i}-\tfrac{\alpha\log C}{2\lambda_0}(\lambda_i-\lambda_0)^2",
        purpose="Classification with noisy labels, where clean and noisy examples want different temperatures.",
        tasks=("classification",),
        aliases=("ALDRLoss", "ALDR-KL", "LDR-KL"),
        cost="O(BL), one number per training example",
        detached="the temperatures",
        note="Temperatures are floored at 0.001 of lambda0; not shift invariant, since scores are divided by their size.",
    )
    accepts = ("index",)

    examples: int = data("number of training examples, an integer >= 1")
    lambda0: float = real(1.0, "temperature to start with", above=0, search=(0.1, 10.0, "log"))
    margin: float = real(1.0, "margin on wrong columns", low=0, search=(0.1, 10.0, "log"))
    alpha: float = real(2.0, "how little temperatures move", low=1, search=(2.0, 10.0, "log"))
    softplus: bool = flag(False, "softplus of the scores first")

    temperatures: Tensor

    def setup(self) -> None:
        if isinstance(self.examples, bool) or not isinstance(self.examples, int) or self.examples < 1:
            raise ValueError(f"examples: expected an integer >= 1, got {self.examples!r}")
        self.register_buffer("temperatures", torch.full((self.examples,), self.lambda0))

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        ids = fields.get("ids")
        if ids is None:
            if self.training:
                raise TypeError(
                    "ids: ALDR needs it in training mode, one entry per row; attach it with targets.given(ids=tensor)"
                )
            return {"temperature": self.temperatures.new_tensor(self.lambda0)}
        return {"temperature": self.temperatures[checked_ids(ids, self.examples)]}

    def rule(
        self, scores: Tensor, targets: Block, *, temperature: Tensor, ids: Tensor | None = None, **fields: Tensor
    ) -> Returned:
        z = normalized(scores, targets, "softplus_mean" if self.softplus else "l1_mean")
        columns = targets.count()
        log_columns = columns.clamp(min=2).log()
        moved = self._moved(z.detach(), targets, temperature.to(z.dtype), log_columns)
        gap = differences(z, targets, self.margin)
        soft = targets.logsumexp(gap / moved[:, None]) - columns.clamp(min=1).log()
        value = moved * soft - self.alpha * log_columns / (2 * self.lambda0) * (moved - self.lambda0).square()
        if ids is None:
            return value
        return Outcome({"loss": (value, None)}, {"ids": ids, "moved": moved, "counted": targets.counted})

    def _moved(self, z: Tensor, targets: Block, temperature: Tensor, log_columns: Tensor) -> Tensor:
        scaled = z / (temperature if temperature.dim() == 0 else temperature[:, None])
        # the public code adds 1e-5 to every probability
        p = (scaled - targets.logsumexp(scaled)[:, None]).exp() + 1e-5
        p = p / targets.sum(p)[:, None]
        divergence = targets.sum(p * p.log()) + targets.count().clamp(min=1).log()
        moved = self.lambda0 * (1 - divergence / (self.alpha * log_columns))
        return moved.clamp(min=TEMPERATURE_FLOOR * self.lambda0)

    def commit(self, updates: dict[str, Tensor], fields: dict[str, Tensor]) -> None:
        kept = updates["counted"]
        ids, moved = updates["ids"][kept], updates["moved"][kept]
        rows = last_rows(ids)
        self.temperatures[ids[rows]] = moved[rows].to(self.temperatures.dtype)
