"""The sigmoid loss for pairs."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import flag, real
from torchlosses.loss import RowLoss
from torchlosses.scores import Scores, as_scores


class SigLIP(RowLoss):
    r"""A yes-or-no question for every pair: ``sum_j softplus(-y_j (t s_j + b))`` with y = +1 on positives, -1 elsewhere.

    ``t = exp(log_scale)`` and ``b = bias`` are parameters of the loss: give them to the optimizer. The sum over columns is
    not divided by their number.

    Arguments:
        initial_scale: t at the start, > 0.
        initial_bias: b at the start.
        learnable: False keeps t and b fixed, in buffers (for scores whose scale and bias are the caller's).

    >>> import torch, torchlosses as tl
    >>> tl.SigLIP()(tl.cosine(torch.eye(2), torch.eye(2)), tl.paired())
    tensor(0.6932, grad_fn=<...>)
    """

    card: ClassVar[Card] = Card(
        title="Sigmoid Loss for Language Image Pre-Training",
        year=2023,
        identifier="arXiv:2303.15343",
        family="contrastive",
        formula=r"\sum_j \log\left(1 + e^{-y_j (t s_j + b)}\right)",
        purpose="Align pairs without a normalizer over the batch; any number of positives per row.",
        tasks=("pairs", "retrieval"),
        scores="cosine",
        aliases=("SigmoidContrastive", "SigLipLoss", "sigmoid contrastive"),
        over="rows; a row's value is the sum over its columns",
    )
    accepts = ("positive",)
    plain = "multi_label"

    initial_scale: float = real(10.0, "t at the start", above=0, search=(1.0, 100.0, "log"))
    initial_bias: float = real(-10.0, "b at the start", search=(-15.0, 0.0))
    learnable: bool = flag(True, "train t and b")

    log_scale: Tensor
    bias: Tensor

    def setup(self) -> None:
        for name, value in (("log_scale", math.log(self.initial_scale)), ("bias", self.initial_bias)):
            tensor = torch.tensor(float(value))
            if self.learnable:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def prescale(self) -> float | Tensor | None:
        scale: Tensor = self.log_scale.exp()
        return scale if self.learnable or self.initial_scale != 1 else None

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        logits = scores + self.bias.to(scores.dtype)
        return -targets.sum(logsigmoid(torch.where(targets.positive, logits, -logits)))

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The probability that each pair belongs together, (..., L)."""
        return torch.sigmoid(as_scores(scores).times(self.log_scale.exp()).tensor() + self.bias)
