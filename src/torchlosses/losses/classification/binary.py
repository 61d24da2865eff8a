"""One sigmoid per column: binary and multi-label classification."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import choice, data, flag, real
from torchlosses.loss import RowLoss
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets, classes


class CellLoss(RowLoss):
    r"""Base of losses that price every cell on its own, ``w (y f+(s) + (1 - y) f-(s))``: define :meth:`parts`.

    Arguments:
        columns: 'mean' or 'sum' over the existing columns of a row. With 'sum' and ``over='terms'`` the mean is over
            all existing cells of the batch.

    Targets are ``multi_label(hot)``, ``graded``/``soft`` values in [0, 1], or anything with right columns. Plain
    integers (B,) are classes, plain (B, L) tensors multi-label when 0/1 and soft otherwise.
    """

    accepts: ClassVar[tuple[str, ...]] = ("grade", "probability")
    plain = "multi_label"

    columns: str = choice("mean", "how the columns of a row become one number", options=("mean", "sum"))

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """What a right and what a wrong column cost at these scores, elementwise."""
        raise NotImplementedError

    def weights(self, targets: Block, **fields: Tensor) -> Tensor | None:
        """Factors of the cells, (b, L) or (1, L), without gradient; None for 1."""
        return None

    def _targets(self, targets: Targets | Tensor) -> Targets:
        if isinstance(targets, Tensor) and targets.dim() == 1 and not targets.dtype.is_floating_point:
            targets = classes(targets)
        return super()._targets(targets)

    def rule(self, scores: Tensor, targets: Block, *args: Any, **fields: Any) -> Returned:
        y = targets.probability if targets.kind == "soft" else targets.grade
        positive, negative = self.parts(scores)
        weight = self.weights(targets, **fields)
        value = y * positive + (1 - y) * negative
        return self.total(value if weight is None else weight * value, targets)

    def total(self, value: Tensor, targets: Block) -> Returned:
        """The row's number from those of its cells."""
        return (targets.sum(value), targets.count()) if self.columns == "sum" else targets.mean(value)


class SigmoidLoss(CellLoss):
    r"""Base of losses with one sigmoid per column, ``w (y f+(s) + (1 - y) f-(s))``: define :meth:`parts`.

    Arguments:
        columns: 'mean' or 'sum' over the existing columns of a row. With 'sum' and ``over='terms'`` the mean is over
            all existing cells of the batch.

    Targets are ``multi_label(hot)``, ``graded``/``soft`` values in [0, 1], or anything with right columns. Plain
    integers (B,) are classes, plain (B, L) tensors multi-label when 0/1 and soft otherwise. :meth:`predict` is the sigmoid.
    """

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The sigmoid of every score (..., L)."""
        return as_scores(scores).tensor().sigmoid()


def checked_columns(weight: object, recipe: Scores, name: str) -> None:
    """Refuses a tensor that has not one entry per column."""
    if isinstance(weight, Tensor) and weight.numel() not in (1, recipe.columns_count):
        raise ValueError(f"{name}: expected a number or shape ({recipe.columns_count},), got {tuple(weight.shape)}")


class BinaryCrossEntropy(SigmoidLoss):
    r"""Binary cross-entropy of the sigmoid of every score: multi-label classification.

    Arguments:
        columns: 'mean' or 'sum' over the existing columns of a row. With 'sum' and ``over='terms'`` the mean is over
            all existing cells of the batch.
        pos_weight: factor of the positive part, a number or one per column (L,); often negatives over positives.
        class_weight: factor of a whole column, (L,).
        link: 'sigmoid' of each score, or 'softmax': the softmax probabilities are priced one by one, each right or wrong.
        eps: floor of p (1 - p) in the gradient of that, 1e-12 to have torch.nn.BCELoss's; 0 (the default): exact.

    Targets are ``multi_label(hot)``, ``graded``/``soft`` values in [0, 1], or anything with right columns. Plain
    integers (B,) are classes, plain (B, L) tensors multi-label when 0/1 and soft otherwise. One column is logistic
    regression, with ``reduction=ResidualNormalized()`` the steps that lead it to the perceptron's.

    >>> import torch, torchlosses as tl
    >>> tl.BinaryCrossEntropy()(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.4100)
    """

    card: ClassVar[Card] = Card(
        title="Binary cross-entropy with logits; as pre-training objective: CatLIP",
        year=2024,
        identifier="arXiv:2404.15653",
        family="classification",
        formula=r"\sum_j w_j\left[\pi_j y_j\log(1+e^{-s_j}) + (1-y_j)\log(1+e^{s_j})\right]",
        purpose="Each column is its own yes or no: multi-label classification, pointwise ranking.",
        tasks=("classification",),
        aliases=(
            "BCEWithLogitsLoss",
            "BCE",
            "MultiLabelSoftMarginLoss",
            "SoftMarginLoss",
            "sigmoid cross-entropy",
            "BiXSE",
            "MultiLabelSoftMargin",
            "WeightedBCE",
            "CatLIP",
            "LogisticLoss",
            "NormalizedLogisticLoss",
        ),
    )

    pos_weight: Tensor | float | None = data("factor of the positive part, a number or (L,)", default=None)
    class_weight: Tensor | None = data("factor of each column, (L,)", default=None)

    link: str = choice("sigmoid", "what makes a score a probability", options=("sigmoid", "softmax"))
    eps: float = real(0.0, "floor of p (1 - p) in the gradient of link='softmax'", low=0, below=1)

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        for name in ("pos_weight", "class_weight"):
            checked_columns(getattr(self, name), recipe, name)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        if self.link == "softmax":
            scores = _log_odds(scores, targets)
            if self.eps:
                share = (scores.sigmoid() * (-scores).sigmoid() / self.eps).clamp(max=1).detach()
                scores = scores.detach() + share * (scores - scores.detach())
        return super().rule(scores, targets, **fields)

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The probability of every column (..., L)."""
        plain = as_scores(scores).tensor()
        return plain.sigmoid() if self.link == "sigmoid" else plain.softmax(-1)

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        positive, negative = functional.softplus(-scores), functional.softplus(scores)
        if self.pos_weight is not None:
            positive = positive * torch.as_tensor(self.pos_weight, dtype=scores.dtype, device=scores.device)
        if self.class_weight is not None:
            weight = torch.as_tensor(self.class_weight, dtype=scores.dtype, device=scores.device)
            positive, negative = positive * weight, negative * weight
        return positive, negative


def _log_odds(scores: Tensor, targets: Block) -> Tensor:
    """log p_j - log(1 - p_j) of softmax probabilities: the score against the log-sum-exp of the other columns."""
    lse = targets.logsumexp(scores)[:, None]
    place = scores.detach().masked_fill(~targets.valid, -torch.inf).argmax(-1, keepdim=True)
    top = torch.zeros_like(targets.valid).scatter_(1, place, True)
    beside = targets.logsumexp(scores, ~top)[:, None]  # only the largest p may be near 1, where 1 - p cancels
    beside = torch.where(beside == -torch.inf, (lse - 100).detach(), beside)  # a row of one column: torch's floor of -100
    plain = targets.valid & ~top
    others = lse + torch.log(-torch.expm1(torch.where(plain, scores - lse, -1.0)))
    return torch.where(targets.valid, scores - torch.where(top, beside, others), 0.0)


class SigmoidFocal(SigmoidLoss):
    r"""Sigmoid focal loss of every column, ``-alpha_t (1 - p_t)^gamma log p_t``, with PolyLoss's first term.

    Arguments:
        gamma: focusing exponent, >= 0.
        alpha: weight of right columns, 1 - alpha that of wrong ones; None leaves both at 1.
        epsilon: adds ``epsilon (1 - p_t)^(gamma + 1)`` (PolyLoss; -1 in its detection experiments).
        alpha_on_poly: alpha weights that term too.
        columns: 'mean' or 'sum' over the existing columns of a row.

    >>> import torch, torchlosses as tl
    >>> tl.SigmoidFocal(columns="sum")(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.1304)
    """

    card: ClassVar[Card] = Card(
        title="Focal Loss for Dense Object Detection",
        year=2017,
        identifier="arXiv:1708.02002",
        family="classification",
        formula=r"-\alpha_t(1-p_t)^\gamma\log p_t + \epsilon(1-p_t)^{\gamma+1}",
        purpose="Multi-label classification and detection with very many easy negatives.",
        tasks=("classification",),
        aliases=("sigmoid_focal_loss", "SigmoidFocalLoss", "binary focal loss", "PolyBCELoss", "Poly1FocalLoss"),
        equals=("BinaryCrossEntropy at gamma=0, alpha=None, epsilon=0",),
    )

    gamma: float = real(2.0, "focusing exponent", low=0, search=(0.5, 5.0))
    alpha: float | None = real(0.25, "weight of right columns", low=0, high=1, optional=True, search=(0.1, 0.9))
    epsilon: float = real(0.0, "first coefficient of PolyLoss", low=-1)
    alpha_on_poly: bool = flag(False, "alpha weights the polynomial term too")

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        log_p, log_other = functional.logsigmoid(scores), functional.logsigmoid(-scores)
        a, b = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        return self._part(log_p, log_other, a), self._part(log_other, log_p, b)

    def _part(self, log_p: Tensor, log_other: Tensor, weight: float) -> Tensor:
        value = -weight * (self.gamma * log_other).exp() * log_p
        if self.epsilon:
            scale = self.epsilon * (weight if self.alpha_on_poly else 1.0)
            value = value + scale * ((self.gamma + 1) * log_other).exp()
        return value
