"""AUC margin loss: the squared pairwise surrogate as a min-max problem of one example at a time."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import choice, data, flag, real
from torchlosses.losses.auc.labels import ByLabel, check_labels
from torchlosses.scores import Scores
from torchlosses.targets import Targets


class AUCMargin(ByLabel):
    r"""AUC margin loss: both classes close to their own centre, the centres a margin apart.

    .. math:: \min_{a,b}\max_{\alpha\ge0}\ w_p\!\sum_{P}(s-a)^2+w_q\!\sum_{N}(s-b)^2
        +2\alpha\big(km+w_q\!\sum_{N}s-w_p\!\sum_{P}s\big)-k\alpha^2

    Arguments:
        version: 'v2' :math:`w_p=1/|P|, w_q=1/|N|, k=1`; 'v1' :math:`w_p=(1-\pi)/n, w_q=\pi/n, k=\pi(1-\pi)`.
        margin: m > 0.
        prior: pi of 'v1', the share of positives in the training data: a number or a tensor (classes,) in (0, 1); None: the
            batch's share.
        auxiliaries: 'learned' (parameters ``a``, ``b``, ``alpha``, one of each per label), or 'closed': their optimum on the
            batch, which is the sum of both variances plus the squared hinge of the centres' distance (times k).
        ascent: the gradient of alpha is reversed, so that an optimizer that descends maximizes over alpha. With False it is
            the plain derivative, for optimizers that ascend by themselves.
        classes: number of labels (columns), the size of the parameters.

    Call with scores (B,) or (B, L) and 0/1 targets. In training mode alpha < 0 is projected to 0 before the call.

    >>> import torch, torchlosses as tl
    >>> scores, targets = torch.tensor([2.0, 1.0, 0.0, 1.0]), torch.tensor([1, 1, 0, 0])
    >>> tl.AUCMargin(auxiliaries="closed")(scores, targets)
    tensor(0.5000)
    """

    card: ClassVar[Card] = Card(
        title="Large-scale Robust Deep AUC Maximization: A New Surrogate Loss and Empirical Studies on Medical Image "
        "Classification",
        year=2021,
        identifier="arXiv:2012.03173",
        family="auc",
        formula=r"\mathrm{var}_P(s)+\mathrm{var}_N(s)+\mathrm{relu}(m+\bar s_N-\bar s_P)^2\ \text{(closed)}",
        purpose="Maximise the AUC on imbalanced data without forming pairs.",
        tasks=("classification",),
        scores="linear",
        aliases=("AUCMLoss", "AUCM", "MultiLabelAUCMLoss", "AUC min-max", "PESG"),
        cost="O(B) per label",
        over="labels",
        detached="nothing; the gradient of alpha is reversed by default",
        note="a public implementation divides the negatives of v2's cross term by n: a slip that is not reproduced",
    )

    version: str = choice("v2", "how classes are weighted", options=("v1", "v2"))
    margin: float = real(1.0, "distance of the centres", above=0, search=(0.1, 1.0))
    prior: float | Tensor | None = data("share of positives: a number or a tensor (classes,) in (0, 1)", None)
    auxiliaries: str = choice("learned", "where a, b and alpha come from", options=("learned", "closed"))
    ascent: bool = flag(True, "whether the gradient of alpha is reversed")
    classes: int = data("number of labels (columns), an integer >= 1", 1)

    a: Tensor
    b: Tensor
    alpha: Tensor

    def setup(self) -> None:
        if isinstance(self.classes, bool) or not isinstance(self.classes, int) or self.classes < 1:
            raise ValueError(f"classes: expected an integer >= 1, got {self.classes!r}")
        if self.prior is not None:
            share = torch.as_tensor(self.prior)
            if share.dim() > 1 or share.numel() not in (1, self.classes) or not bool(((share > 0) & (share < 1)).all()):
                raise ValueError(f"prior: expected numbers in (0, 1), one or {self.classes} of them, got {self.prior!r}")
        if self.auxiliaries == "learned":
            for name in ("a", "b", "alpha"):
                self.register_parameter(name, nn.Parameter(torch.zeros(self.classes)))

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        if self.auxiliaries == "learned":
            check_labels(recipe.rows, self.classes)

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        if self.training and self.auxiliaries == "learned":
            self.alpha.data.clamp_(min=0)  # the projection of projected ascent; after a step, before any graph
        return {}

    def rule(self, scores: Tensor, targets: Block) -> Returned:
        upper, lower = targets.positive, targets.negative
        n_upper, n_lower = targets.count(upper), targets.count(lower)
        n = (n_upper + n_lower).clamp(min=1)
        rows = slice(targets.start, targets.start + scores.shape[0])
        some = (n_upper > 0) & (n_lower > 0)
        if self.version == "v2":
            w_upper, w_lower, k = 1 / n_upper.clamp(min=1), 1 / n_lower.clamp(min=1), torch.ones_like(n)
        else:
            share = n_upper / n if self.prior is None else self._prior(n, rows)
            w_upper, w_lower, k = (1 - share) / n, share / n, share * (1 - share)
            some = some | (self.prior is not None)
        gap = k * self.margin + w_lower * targets.sum(scores, lower) - w_upper * targets.sum(scores, upper)
        if self.auxiliaries == "closed":
            a, b = targets.mean(scores, upper), targets.mean(scores, lower)
            alpha = gap.relu() / torch.where(k > 0, k, 1.0)
        else:
            a, b, alpha = (p[rows].to(scores.dtype) for p in (self.a, self.b, self.alpha))
            if self.ascent:
                alpha = 2 * alpha.detach() - alpha
        spread = w_upper * targets.sum((scores - a[:, None]).square(), upper)
        spread = spread + w_lower * targets.sum((scores - b[:, None]).square(), lower)
        return spread + 2 * alpha * gap - k * alpha.square(), some.to(scores.dtype)

    def _prior(self, like: Tensor, rows: slice) -> Tensor:
        if not isinstance(self.prior, Tensor):
            return torch.full_like(like, self.prior or 0.0)
        return self.prior.reshape(-1).expand(self.classes)[rows]
