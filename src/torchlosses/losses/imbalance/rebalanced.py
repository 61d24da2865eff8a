"""Cells or rows weighted by class frequency: rare classes count for more, or are spared as wrong columns."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome, Returned
from torchlosses.hyperparameters import choice, data, flag, real, reals
from torchlosses.loss import Wrapper
from torchlosses.losses.classification.binary import SigmoidLoss
from torchlosses.losses.classification.prior import checked_counts, known_counts, positive_counts
from torchlosses.scores import Scores
from torchlosses.targets import Targets


def effective_number(counts: Tensor, beta: float = 0.9999, normalize: bool = True) -> Tensor:
    r"""Class weights ``(1 - beta) / (1 - beta^n)``, the inverse of the effective number of examples.

    Arguments:
        counts: (C,) training examples of each class, >= 0; a class without any counts as one example.
        beta: in [0, 1]; 0 weighs all classes alike, 1 is the limit ``1 / n``.
        normalize: scale the weights to sum to C.

    Source: Class-Balanced Loss Based on Effective Number of Samples, 2019, arXiv:1901.05555. With
    ``classes(y, weight=effective_number(counts))`` a mean divides by the sum of the weights of the batch's labels, as torch
    does; :class:`ClassBalanced` divides by the number of rows.

    >>> import torch, torchlosses as tl
    >>> tl.effective_number(torch.tensor([90, 10]), beta=0.99)
    tensor([0.2768, 1.7232])
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta: expected a number in [0, 1], got {beta!r}")
    counts = checked_counts(counts).detach()
    wide = counts.to(counts.dtype if counts.dtype == torch.float64 else torch.float32)
    wide = torch.where(wide > 0, wide, 1.0)
    weight = 1 / wide if beta == 1 else (1 - beta) / (1 - torch.pow(torch.full_like(wide, beta), wide))
    return weight * len(weight) / weight.sum() if normalize else weight


def label_weights(counts: Tensor, examples: int, mode: str = "frequency") -> Tensor:
    r"""Column weights for binary cross-entropy from how often each label occurs, as a percentage f_j of the examples.

    Arguments:
        counts: (C,) training examples that carry each label, >= 0.
        examples: number of training examples, > 0.
        mode: 'frequency': ``1 / f_j`` rounded to two decimals, then scaled to sum to 1, a label without any example
            counting as one; 'ranked': the k-th most frequent label gets the k-th smallest f (in percent, so the scale of
            the loss changes).

    Source: Exploring Class Imbalance in Code Comment Classification (NLBSE tool competition), 2025. Use them as
    ``BinaryCrossEntropy(class_weight=label_weights(counts, examples))``.

    >>> import torch, torchlosses as tl
    >>> tl.label_weights(torch.tensor([50, 25]), 100), tl.label_weights(torch.tensor([50, 25]), 100, mode="ranked")
    (tensor([0.3333, 0.6667]), tensor([25., 50.]))
    """
    if mode not in ("frequency", "ranked"):
        raise ValueError(f"mode: expected 'frequency' or 'ranked', got {mode!r}")
    counts = checked_counts(counts).detach()
    wide = counts.to(counts.dtype if counts.dtype == torch.float64 else torch.float32)
    if mode == "ranked":
        share = wide / examples * 100
        return torch.empty_like(share).scatter(0, share.argsort(dim=0, descending=True, stable=True), share.sort().values)
    weight = torch.round(1 / (torch.where(wide > 0, wide, 1.0) / examples * 100), decimals=2)
    return weight / weight.sum()


class ClassBalanced(Wrapper):
    r"""Any row loss times the weight of the row's class, :func:`effective_number` of its count; mean over the rows.

    Arguments:
        loss: a row loss that takes ``classes`` targets.
        class_counts: (C,) training examples of each class, >= 0; a class without any counts as one example.
        beta: in [0, 1].

    >>> import torch, torchlosses as tl
    >>> loss = tl.ClassBalanced(tl.SigmoidFocal(alpha=None, columns="sum"), class_counts=torch.tensor([90, 10]), beta=0.99)
    >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.0485)
    """

    card: ClassVar[Card] = Card(
        title="Class-Balanced Loss Based on Effective Number of Samples",
        year=2019,
        identifier="arXiv:1901.05555",
        family="imbalance",
        formula=r"\frac{1-\beta}{1-\beta^{n_y}}\,\ell(s, y)",
        purpose="Long-tailed classification with any loss.",
        scores="linear",
        aliases=("CB loss", "class-balanced loss", "CB focal", "ClassBalancedLoss", "DatasetEquity", "LikelihoodWeight"),
        detached="the weights",
        equals=("the loss itself at beta=0 or equal counts",),
        note="The widely copied port's 'softmax' mode is BinaryCrossEntropy(link='softmax') inside; its 'focal' mode is "
        "SigmoidFocal(alpha=None, columns='sum'). Weights of single examples by how common they are (DatasetEquity) come "
        "from likelihood_weight.",
    )

    class_counts: Tensor = data("training examples of each class, (C,)")
    beta: float = real(0.9999, "how slowly examples saturate", low=0, high=1, search=(0.9, 0.9999))

    def setup(self) -> None:
        self.class_counts = checked_counts(self.class_counts)

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        if targets.kind not in ("classes", "paired", "preferred"):
            raise TypeError(f"targets: ClassBalanced expected one right class per row, classes(), got {targets.kind}()")
        known_counts(self.class_counts, recipe)

    def _evaluate(self, scores: Tensor, targets: Block, fields: dict[str, Tensor]) -> Outcome:
        found = super()._evaluate(scores, targets, fields)
        weight = effective_number(positive_counts(self.class_counts, scores), self.beta)[targets.index]
        return Outcome({name: (value * weight, count) for name, (value, count) in found.terms.items()}, found.updates)


class DistributionBalanced(SigmoidLoss):
    r"""Distribution-balanced loss: binary cross-entropy with rebalanced weights, class biases and tolerance of negatives.

    Scores get the bias ``-log(N / n_j - 1) bias``; in wrong columns they are then multiplied by ``neg_scale`` and the cost
    divided by it. With l the resulting binary cross-entropy a cell costs ``balance w_ij (1 - e^-l)^gamma l``, where
    ``w_ij = alpha + sigmoid(beta (r_ij - mu))`` and ``r_ij = n_j^-1 / sum_k y_ik n_k^-1``.

    Arguments:
        class_counts: (C,) training examples that carry each label, >= 0; a label without any counts as one.
        examples: number of training examples N; counts from N on are taken as N - 1 in the bias.
        weighting: 'rebalance' (as above); 'class_balanced': (1 - cb_beta) / (1 - cb_beta^n_j), not normalized; 'none'.
        alpha, beta, mu: of the rebalanced weights, >= 0, beta > 0. A row without right columns has the limit, w = 1 + alpha.
        cb_beta: in [0, 1).
        bias: strength of the class biases, >= 0 (the official code divides it by neg_scale: 0.05 / 2).
        neg_scale: > 0.
        divide_negatives: whether the cost of wrong columns is divided by neg_scale.
        gamma: focusing exponent, >= 0, or None for the plain ``w l``.
        balance: factor of the focal form, a number, or one for right and one for wrong columns.
        columns: 'mean' or 'sum' over the columns of a row.

    >>> import torch, torchlosses as tl
    >>> loss = tl.DistributionBalanced(class_counts=torch.tensor([90, 10]), examples=100)
    >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.0803)
    """

    card: ClassVar[Card] = Card(
        title="Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets",
        year=2020,
        identifier="arXiv:2007.09654",
        family="imbalance",
        formula=r"\tfrac1C\sum_j w_{ij}\left[y_j\ell(s_j-\nu_j)+\tfrac{1-y_j}{\lambda}\ell(-\lambda(s_j-\nu_j))\right]",
        purpose="Multi-label classification where labels are long-tailed and come together.",
        tasks=("classification",),
        aliases=("DB loss", "ResampleLoss", "DB-focal", "R-FL", "NTR-FL", "DB-0FL", "CB-FL", "BalancedLossNLP"),
        detached="weights and biases; the focal factor is differentiated",
        note="The NLP port has bias 0.05 undivided, mu 0.9, balance (0.5, 0.5); its NTR forms weighting='none' and "
        "divide_negatives=False.",
    )

    accepts = ("grade",)
    copies = 16.0

    class_counts: Tensor = data("training examples that carry each label, (C,)")
    examples: int = data("number of training examples")
    weighting: str = choice("rebalance", "weights of the cells", options=("rebalance", "class_balanced", "none"))
    alpha: float = real(0.1, "floor of the weights", low=0)
    beta: float = real(10.0, "slope of the weights", above=0)
    mu: float = real(0.2, "where the weights are half way", low=0, search=(0.1, 0.9))
    cb_beta: float = real(0.9, "of the class-balanced weights", low=0, below=1)
    bias: float = real(0.025, "strength of the class biases", low=0, search=(0.0, 0.1))
    neg_scale: float = real(2.0, "factor on the scores of wrong columns", above=0, search=(1.0, 5.0))
    divide_negatives: bool = flag(True, "divide the cost of wrong columns by that factor")
    gamma: float | None = real(2.0, "focusing exponent", low=0, optional=True, search=(0.0, 4.0))
    balance: tuple[float, ...] = reals((2.0,), "factor of the focal form, or one for right and one for wrong columns", low=0)

    def setup(self) -> None:
        self.class_counts = checked_counts(self.class_counts)
        if len(self.balance) not in (1, 2):
            raise ValueError(f"balance: expected one number or two, got {self.balance!r}")

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        known_counts(self.class_counts, recipe)

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        counts = positive_counts(self.class_counts, scores).clamp(max=self.examples - 1)
        scores = scores - self.bias * (self.examples / counts - 1).log()
        divisor = self.neg_scale if self.divide_negatives else 1.0
        return self._cell(-scores, self.balance[0]), self._cell(self.neg_scale * scores, self.balance[-1]) / divisor

    def _cell(self, wrongness: Tensor, balance: float) -> Tensor:
        entropy = functional.softplus(wrongness)
        if self.gamma is None:
            return entropy
        return balance * (self.gamma * functional.logsigmoid(wrongness)).exp() * entropy

    def weights(self, targets: Block, **fields: Tensor) -> Tensor | None:
        if self.weighting == "none":
            return None
        counts = positive_counts(self.class_counts, targets.grade)
        if self.weighting == "class_balanced":
            return effective_number(counts, self.cb_beta, normalize=False)[None, :]
        share = (targets.positive / counts).sum(-1, keepdim=True)
        return self.alpha + torch.sigmoid(self.beta * (1 / (counts * share) - self.mu))  # 1/0 is inf, whose sigmoid is 1


class SigmoidLDAM(SigmoidLoss):
    r"""LDAM for several labels: binary cross-entropy with ``margin n_j^(-1/4)`` taken from the scores of right columns.

    Arguments:
        class_counts: (C,) training examples that carry each label, >= 0; a label without any counts as one.
        margin: of a label with one example, >= 0.
        columns: 'mean' or 'sum' over the columns of a row.

    >>> import torch, torchlosses as tl
    >>> loss = tl.SigmoidLDAM(class_counts=torch.tensor([81, 16]))
    >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.5032)
    """

    card: ClassVar[Card] = Card(
        title="TransICD: Transformer Based Code-wise Attention Model for Explainable ICD Coding",
        year=2021,
        identifier="arXiv:2104.10652",
        family="imbalance",
        formula=r"\tfrac1C\sum_j \mathrm{BCE}(s_j - y_j\,m\,n_j^{-1/4},\ y_j)",
        purpose="Multi-label classification with rare labels.",
        tasks=("classification",),
        aliases=("LDAM-BCE", "multi-label LDAM", "TransICD"),
        detached="the margins",
        equals=("BinaryCrossEntropy at margin=0",),
    )

    class_counts: Tensor = data("training examples that carry each label, (C,)")
    margin: float = real(3.0, "of a label with one example", low=0, search=(0.5, 5.0))

    def setup(self) -> None:
        self.class_counts = checked_counts(self.class_counts)

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        known_counts(self.class_counts, recipe)

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        margin = self.margin * positive_counts(self.class_counts, scores) ** -0.25
        return functional.softplus(margin - scores), functional.softplus(scores)


class SigmoidVectorScaling(SigmoidLoss):
    r"""Vector scaling of binary labels: ``BCE(scale (s Delta_y - iota_y), y)``, factor and shift chosen by the label.

    Arguments:
        positive_factor, negative_factor: Delta, > 0; they multiply.
        positive_shift, negative_shift: iota.
        scale: > 0 (30 in the released code).
        columns: 'mean' or 'sum' over the columns of a row.

    >>> import torch, torchlosses as tl
    >>> tl.SigmoidVectorScaling(positive_shift=0.1, scale=10.0)(torch.tensor([[0.2]]), torch.tensor([[1.0]]))
    tensor(0.3133)
    """

    card: ClassVar[Card] = Card(
        title="Label-Imbalanced and Group-Sensitive Classification under Overparameterization",
        year=2021,
        identifier="arXiv:2103.01550",
        family="imbalance",
        formula=r"\log(1+e^{-\bar y\,\kappa(s\Delta_y-\iota_y)}),\quad \bar y=2y-1",
        purpose="Imbalanced binary classification with networks that fit the training set.",
        aliases=("binary VS loss", "VSLoss binary"),
        detached="factors and shifts",
        equals=("BinaryCrossEntropy at factors 1, shifts 0, scale 1",),
    )

    positive_factor: float = real(1.0, "factor in right cells", above=0, search=(0.3, 3.0, "log"))
    negative_factor: float = real(1.0, "factor in wrong cells", above=0, search=(0.3, 3.0, "log"))
    positive_shift: float = real(0.0, "taken from right cells", search=(-1.0, 1.0))
    negative_shift: float = real(0.0, "taken from wrong cells", search=(-1.0, 1.0))
    scale: float = real(30.0, "factor on everything", above=0)

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        right = self.scale * (scores * self.positive_factor - self.positive_shift)
        wrong = self.scale * (scores * self.negative_factor - self.negative_shift)
        return functional.softplus(-right), functional.softplus(wrong)


class Equalization(SigmoidLoss):
    r"""Equalization loss (EQL): binary cross-entropy in which rare classes are spared as wrong columns.

    A wrong column whose frequency is below ``threshold`` costs nothing, unless the row has no right column at all
    (background: an all-zero row of ``multi_label``), where everything counts.

    Arguments:
        class_counts: (C,) training images (or examples) that hold each class, >= 0.
        examples: number of training images; the frequency of a class is its count over this.
        threshold: frequency below which a class is rare, in [0, 1].
        columns: 'sum' (the default) or 'mean' over the columns of a row.

    >>> import torch, torchlosses as tl
    >>> loss = tl.Equalization(class_counts=torch.tensor([9000, 1]), examples=10000)
    >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.1269)
    """

    card: ClassVar[Card] = Card(
        title="Equalization Loss for Long-Tailed Object Recognition",
        year=2020,
        identifier="arXiv:2003.05176",
        family="imbalance",
        formula=r"\sum_j w_j\,\mathrm{BCE}(s_j, y_j),\quad w_j = 1 - [\text{foreground}][f_j<\lambda](1-y_j)",
        purpose="Detection and classification with classes so rare that being wrong for others drowns them.",
        aliases=("EQL", "EqualizationLoss", "Equalization Loss"),
        detached="the weights",
        equals=("BinaryCrossEntropy(columns='sum') at threshold=0",),
    )

    class_counts: Tensor = data("training examples that hold each class, (C,)")
    examples: int = data("number of training examples")
    accepts = ("grade",)
    copies = 16.0

    threshold: float = real(1.76e-3, "frequency below which a class is rare", low=0, high=1, search=(1e-4, 1e-1, "log"))
    columns = "sum"

    def setup(self) -> None:
        self.class_counts = checked_counts(self.class_counts)

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        known_counts(self.class_counts, recipe)

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return functional.softplus(-scores), functional.softplus(scores)

    def weights(self, targets: Block, **fields: Tensor) -> Tensor | None:
        rare = self.class_counts.to(targets.device) / self.examples < self.threshold
        foreground = targets.positive.any(-1, keepdim=True)
        return (targets.positive | ~(rare & foreground)).to(targets.dtype)


class EqualizationV2(SigmoidLoss):
    r"""Equalization loss v2: classes whose right and wrong cells have pushed alike so far are weighted alike.

    Weights of wrong cells are ``f = sigmoid(gamma (g - mu))``, of right ones ``1 + alpha (1 - f)``, with g the ratio of the
    gradients that a class has received in right and in wrong cells, added up over training.

    Arguments:
        classes: number of columns.
        gamma, mu, alpha: slope and place of f, and how much right cells of poor classes gain.
        background: the last column is background, with weight 1 and without state.
        columns: 'sum' (the default) or 'mean' over the columns of a row.

    Buffers ``positive`` and ``negative`` hold the added-up gradients, ``ratio`` their ratio (100 at the start); they move
    once per call, in training mode only.

    >>> import torch, torchlosses as tl
    >>> loss = tl.EqualizationV2(classes=2)
    >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), loss.ratio
    (tensor(0.8201), tensor([1.1920e+09, 0.0000e+00]))
    """

    card: ClassVar[Card] = Card(
        title="Equalization Loss v2: A New Gradient Balance Approach for Long-tailed Object Detection",
        year=2021,
        identifier="arXiv:2012.08548",
        family="imbalance",
        formula=r"\sum_j\left[y_j(1+\alpha(1-f(g_j)))+(1-y_j)f(g_j)\right]\mathrm{BCE}(s_j,y_j),\ "
        r"f(g)=\sigma(\gamma(g-\mu))",
        purpose="Long-tailed detection and classification without class counts.",
        aliases=("EQLv2", "EQL v2", "EQLV2Loss"),
        detached="the weights",
    )

    accepts = ("grade",)
    copies = 16.0

    classes: int = data("number of classes")
    gamma: float = real(12.0, "slope of the weights", above=0, search=(4.0, 20.0))
    mu: float = real(0.8, "ratio at which wrong cells weigh one half", low=0, search=(0.4, 1.2))
    alpha: float = real(4.0, "gain of right cells", low=0, search=(1.0, 8.0))
    background: bool = flag(False, "the last column is background")
    columns = "sum"

    positive: Tensor
    negative: Tensor
    ratio: Tensor

    def setup(self) -> None:
        if not isinstance(self.classes, int) or self.classes < 1:
            raise TypeError(f"classes: expected an integer > 0, got {self.classes!r}")
        kept = self.classes - int(self.background)
        self.register_buffer("positive", torch.zeros(kept))
        self.register_buffer("negative", torch.zeros(kept))
        self.register_buffer("ratio", torch.full((kept,), 100.0))

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        if recipe.columns_count != self.classes:
            raise ValueError(f"classes: expected {self.classes} columns of scores, got {recipe.columns_count}")

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        share = torch.sigmoid(self.gamma * (self.ratio.to(batch.device, batch.dtype) - self.mu))
        pair = torch.stack([1 + self.alpha * (1 - share), share])
        return {"pair": functional.pad(pair, (0, int(self.background)), value=1.0)[None]}

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return functional.softplus(-scores), functional.softplus(scores)

    def weights(self, targets: Block, **fields: Tensor) -> Tensor | None:
        return torch.where(targets.positive, fields["pair"][0, 0], fields["pair"][0, 1])

    def rule(self, scores: Tensor, targets: Block, *, pair: Tensor, **fields: Tensor) -> Returned:
        outcome = Outcome.of(super().rule(scores, targets, pair=pair))
        with torch.no_grad():
            push = torch.abs(scores.sigmoid() - targets.grade) * torch.where(targets.positive, pair[0, 0], pair[0, 1])
            push = push * targets.counted[:, None]
            sums = [torch.where(where, push, 0.0).sum(0, keepdim=True) for where in (targets.positive, targets.negative)]
        return Outcome(outcome.terms, {"positive": sums[0], "negative": sums[1]})

    def commit(self, updates: dict[str, Tensor], fields: dict[str, Tensor]) -> None:
        for name in ("positive", "negative"):
            buffer = getattr(self, name)
            buffer += updates[name].sum(0)[: buffer.numel()].to(buffer)
        self.ratio.copy_(self.positive / (self.negative + 1e-10))


__all__ = [
    "ClassBalanced",
    "DistributionBalanced",
    "Equalization",
    "EqualizationV2",
    "SigmoidLDAM",
    "SigmoidVectorScaling",
    "effective_number",
    "label_weights",
]
