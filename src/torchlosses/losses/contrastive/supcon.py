"""Supervised contrastive learning."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary, finite
from torchlosses.hyperparameters import choice, real
from torchlosses.loss import RowLoss
from torchlosses.targets import Targets


class SupCon(RowLoss):
    r"""Softmax over all other examples with every example of the same label as a positive.

    ``form='out'``: mean over positives of ``lse(s) - s_p``; ``'in'``: ``lse(s) - log mean_p exp(s_p)``; both times
    ``temperature / base_temperature``.

    Arguments:
        temperature: divides the scores, > 0.
        base_temperature: > 0; None for the temperature itself, a factor of 1 (the official code has 0.07).
        form: the mean over positives stands outside or inside the logarithm.
        over: 'rows' (paper: a row without positives counts, with 0) or 'active' (rows with a loss > 0).

    >>> import torch, torchlosses as tl
    >>> tl.SupCon()(tl.cosine(torch.eye(3)), tl.same_label(torch.tensor([0, 0, 1])))
    tensor(0.4621)
    """

    card: ClassVar[Card] = Card(
        title="Supervised Contrastive Learning",
        year=2020,
        identifier="arXiv:2004.11362",
        family="contrastive",
        formula=r"\frac{\tau}{\tau_0}\frac{1}{|P|}\sum_{p\in P}\left(\log\sum_j e^{s_j/\tau} - s_p/\tau\right)",
        purpose="Learn an embedding in which examples of one class lie together.",
        tasks=("retrieval", "classification"),
        scores="cosine",
        aliases=("SupConLoss", "supervised contrastive"),
        over="rows; pytorch-metric-learning divides by rows with a loss > 0 (over='active')",
        equals=("InfoNCE with several positives, at base_temperature=None",),
    )
    accepts = ("probability",)
    summary = ("lse", "target")

    temperature: float = real(0.1, "divides the scores", above=0, search=(0.02, 1.0, "log"))
    base_temperature: float | None = real(None, "the loss is multiplied by temperature over this", above=0, optional=True)
    form: str = choice("out", "the mean over positives outside or inside the log", options=("out", "in"))

    def prescale(self) -> float | Tensor | None:
        return 1 / self.temperature

    @property
    def _factor(self) -> float:
        return 1.0 if self.base_temperature is None else self.temperature / self.base_temperature

    def streams(self, targets: Targets) -> tuple[str, ...]:
        return self.summary if self.form == "out" else ()

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        return self._factor * (row.mass * row.lse - row.target), row.mass

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        row = Summary(scores, targets)
        if self.form == "out":
            return self.from_summary(row, targets)
        weight = targets.probability
        log_weight = torch.where(weight > 0, weight, 1.0).log()
        inside = finite(targets.logsumexp(scores + log_weight, weight > 0))
        return self._factor * torch.where(row.mass > 0, row.lse - inside, 0.0), row.mass
