"""Cross-entropy and the penalty on its normalizer."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary
from torchlosses.hyperparameters import choice, real
from torchlosses.loss import RowLoss
from torchlosses.targets import Targets


class CrossEntropy(RowLoss):
    r"""Cross-entropy of the softmax of the scores with classes or soft targets, as torch.nn.CrossEntropyLoss.

    Arguments:
        label_smoothing: share of the target mass that is spread evenly, in [0, 1].
        smoothing: it is spread 'uniform' over all existing columns (torch, timm, optax), or over the 'wrong_only', which
            with C columns is the former at C / (C - 1) times the share.

    Class weights come with the targets: ``classes(index, weight=w)``. Any scores: logits (..., C), ``linear(h, W)``.

    >>> import torch, torchlosses as tl
    >>> tl.CrossEntropy()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1269)
    """

    card: ClassVar[Card] = Card(
        title="Rethinking the Inception Architecture for Computer Vision (label smoothing)",
        year=2016,
        identifier="arXiv:1512.00567",
        family="classification",
        formula=r"\log\sum_j e^{s_j} - \sum_j q_j s_j",
        purpose="Fit a categorical distribution: the baseline of classification and language modelling.",
        tasks=("classification",),
        aliases=(
            "CrossEntropyLoss",
            "softmax loss",
            "log loss",
            "LinearCrossEntropy",
            "NormalizedSoftmax",
            "NormalizedSoftmaxLoss",
            "CCE",
            "cut cross-entropy",
            "NLLLoss",
            "LabelSmoothingCrossEntropy",
            "SoftTargetCrossEntropy",
        ),
        over="weights of the counted rows",
    )
    accepts = ("probability",)
    summary = ("lse", "target")
    own_class_weight = True

    label_smoothing: float = real(0.0, "share of the mass that is spread evenly", low=0, high=1, search=(0.0, 0.3))
    smoothing: str = choice("uniform", "over which columns", options=("uniform", "wrong_only"))

    def streams(self, targets: Targets) -> tuple[str, ...]:
        if not self.label_smoothing:
            return self.summary
        return () if "class_weight" in targets.shared else (*self.summary, "total")

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        value = row.mass * row.lse - row.target
        if self.label_smoothing:
            share = self._share(row.columns)
            value = (1 - share) * value + share * (row.lse - row.total / row.columns)
        weight = targets.row_weight
        return value if weight is None else value * weight

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        weight = targets.class_weight
        if weight is None:
            return self.from_summary(Summary(scores, targets), targets)
        own = -targets.sum(weight * targets.probability * targets.log_softmax(scores))
        if not self.label_smoothing:
            return own
        spread = -targets.mean(weight * targets.log_softmax(scores))
        share = self._share(targets.count())
        return (1 - share) * own + share * spread

    def _share(self, columns: Tensor) -> float | Tensor:
        """The share of the mass that all columns get, the right one included."""
        if self.smoothing == "uniform":
            return self.label_smoothing
        return self.label_smoothing * columns / (columns - 1).clamp(min=1)


class LogPartitionPenalty(RowLoss):
    r"""Squared log-partition function, ``weight * lse(s)^2``: keeps softmax normalizers near 1 ("z-loss" of large models).

    Arguments:
        weight: factor of the penalty, >= 0.

    Add it to another loss: ``CrossEntropy()(s, t) + LogPartitionPenalty()(s, t)``. Not :class:`ZLoss`.

    >>> import torch, torchlosses as tl
    >>> tl.LogPartitionPenalty(weight=1.0)(torch.zeros(1, 1) + 3, torch.tensor([0]))
    tensor(9.)
    """

    card: ClassVar[Card] = Card(
        title="ST-MoE: Designing Stable and Transferable Sparse Expert Models",
        year=2022,
        identifier="arXiv:2202.08906",
        family="classification",
        formula=r"w\,(\log\sum_j e^{s_j})^2",
        purpose="Stabilise large softmax heads by keeping the log-partition function near 0.",
        aliases=("z-loss", "lse_square_scale", "PaLM z-loss", "logit regularizer"),
    )
    accepts = ("probability", "index", "positive", "grade", "scores")
    summary = ("lse",)

    weight: float = real(1e-4, "factor of the penalty", low=0, search=(1e-6, 1e-2, "log"))

    def from_summary(self, row: Summary, targets: Block, **fields: Tensor) -> Returned:
        return self.weight * row.lse.square()
