"""Cross-entropy on scores plus a shift that depends on the row: class counts so far, held-out predictions."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome, Returned, Summary
from torchlosses.hyperparameters import data, real
from torchlosses.loss import RowLoss
from torchlosses.scores import Scores
from torchlosses.targets import Targets


class Seesaw(RowLoss):
    r"""Seesaw loss: wrong columns weigh less in the softmax when their class is rarer, more when they are mistaken.

    Cross-entropy on ``s_j + log S_j`` with ``S_j = min(1, N_j / N_y)^p max(1, p_j / max(p_y, eps))^q`` in wrong columns;
    N counts the labels seen so far (at least 1), the probabilities p carry no gradient.

    Arguments:
        classes: number of columns.
        p: strength of the mitigation by counts, >= 0.
        q: strength of the compensation of mistakes, >= 0.
        eps: floor of the right column's probability, in (0, 1].

    The buffer ``counts`` adds each batch's labels before they are used, once per call, in training mode only.

    >>> import torch, torchlosses as tl
    >>> loss = tl.Seesaw(classes=2)
    >>> loss(torch.tensor([[0.0, 1.0]]), torch.tensor([0])), loss.counts
    (tensor(3.0486), tensor([1., 0.]))
    """

    card: ClassVar[Card] = Card(
        title="Seesaw Loss for Long-Tailed Instance Segmentation",
        year=2021,
        identifier="arXiv:2008.10032",
        family="imbalance",
        formula=r"-\log\frac{e^{s_y}}{e^{s_y}+\sum_{j\ne y}S_{yj}e^{s_j}},\ "
        r"S_{yj}=\min(1,\tfrac{N_j}{N_y})^p\max(1,\tfrac{\sigma_j}{\sigma_y})^q",
        purpose="Long-tailed classification that counts the classes itself, while training.",
        tasks=("classification",),
        aliases=("SeesawLoss", "seesaw loss"),
        detached="S",
        equals=("CrossEntropy at p=0, q=0",),
    )

    copies = 16.0

    classes: int = data("number of classes")
    p: float = real(0.8, "strength of the mitigation by counts", low=0, search=(0.2, 1.2))
    q: float = real(2.0, "strength of the compensation of mistakes", low=0, search=(0.0, 3.0))
    eps: float = real(1e-2, "floor of the right column's probability", above=0, high=1)

    counts: Tensor

    def setup(self) -> None:
        if not isinstance(self.classes, int) or self.classes < 1:
            raise TypeError(f"classes: expected an integer > 0, got {self.classes!r}")
        self.register_buffer("counts", torch.zeros(self.classes))

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        if recipe.columns_count != self.classes:
            raise ValueError(f"classes: expected {self.classes} columns of scores, got {recipe.columns_count}")

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        counts = self.counts.to(batch.device)
        if self.training:
            seen = batch.targets.index[batch.targets.counted]
            counts = counts + torch.bincount(seen, minlength=self.classes).to(counts.dtype)
        return {"log_counts": counts.to(batch.dtype).clamp(min=1).log()[None], "counts": counts[None]}

    def rule(self, scores: Tensor, targets: Block, *, log_counts: Tensor, counts: Tensor, **fields: Tensor) -> Returned:
        with torch.no_grad():
            log_p = scores - targets.logsumexp(scores)[:, None]
            own = targets.target(log_p).clamp(min=math.log(self.eps))
            mistaken = self.q * (log_p - own[:, None]).relu()
            rarer = self.p * (log_counts - log_counts[0, targets.index][:, None]).clamp(max=0)
            shift = torch.where(targets.negative, rarer + mistaken, 0.0)
        row = Summary(scores + shift, targets)
        return Outcome({"loss": (row.lse - row.target, None)}, {"counts": counts})

    def commit(self, updates: dict[str, Tensor], fields: dict[str, Tensor]) -> None:
        self.counts.copy_(updates["counts"][0])


class MemorizationAware(RowLoss):
    r"""Memorization-aware training (MAT): cross-entropy whose shift says what a held-out model would get wrong.

    With ``q = softmax(heldout_scores / temperature)`` and T the share of label b among what is predicted as a, cross-entropy
    on ``s + log(q T + eps)``. The shift carries no gradient, and :meth:`predict` leaves it out.

    Arguments:
        temperature: divides the held-out scores, > 0.
        eps: > 0.
        transition: T, (C, C), rows that sum to 1, best estimated once with :meth:`estimate` on the whole training set; None:
            from each batch, which should then hold every class.

    Each row needs the scores of a model that was not trained on it: ``classes(y).given(heldout_scores=h)``, h (B, C).

    >>> import torch, torchlosses as tl
    >>> loss = tl.MemorizationAware(temperature=1.0, transition=torch.eye(2))
    >>> loss(torch.zeros(1, 2), tl.classes(torch.tensor([0])).given(heldout_scores=torch.tensor([[2.0, 0.0]])))
    tensor(0.1269)
    """

    card: ClassVar[Card] = Card(
        title="The Pitfalls of Memorization: When Memorization Hurts Generalization",
        year=2024,
        identifier="arXiv:2412.07684",
        family="imbalance",
        formula=r"-\log\mathrm{softmax}(s+\log(qT+\epsilon))_y,\quad q=\mathrm{softmax}(h/\tau)",
        purpose="Worst-group accuracy under spurious correlations, without group labels.",
        aliases=("MAT", "memorization-aware training"),
        detached="the shift",
        equals=("LogitAdjusted where every row's held-out prediction is the class prior and T the identity",),
    )

    temperature: float = real(0.1, "divides the held-out scores", above=0, search=(1e-3, 1.0, "log"))
    eps: float = real(1e-6, "keeps the logarithm finite", above=0)
    transition: Tensor | None = data("share of each label among each held-out prediction, (C, C)", default=None)

    @staticmethod
    @torch.no_grad()
    def estimate(heldout_scores: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
        """T (C, C) from held-out scores (N, C) and labels (N,): row a is how the labels of what looks like a are shared."""
        q = (heldout_scores / temperature).softmax(-1)
        joint = q.T @ torch.nn.functional.one_hot(labels, q.shape[1]).to(q.dtype)
        total = joint.sum(1, keepdim=True)
        return joint / torch.where(total > 0, total, 1.0)

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        heldout = fields.get("heldout_scores")
        if heldout is None or heldout.shape != (batch.rows, batch.columns):
            shape = "nothing" if heldout is None else tuple(heldout.shape)
            raise TypeError(
                f"heldout_scores: MemorizationAware needs shape ({batch.rows}, {batch.columns}), got {shape}; "
                "attach it with targets.given(heldout_scores=tensor)"
            )
        heldout = heldout.detach().to(batch.dtype)
        counted = batch.targets.counted
        transition = self.transition
        if transition is None:
            transition = self.estimate(heldout[counted], batch.targets.index[counted], self.temperature)
        q = (heldout / self.temperature).softmax(-1)
        return {"shift": (q @ transition.to(q.device, q.dtype) + self.eps).log()}

    def rule(self, scores: Tensor, targets: Block, *, shift: Tensor, **fields: Tensor) -> Returned:
        row = Summary(scores + shift, targets)
        return row.lse - row.target


__all__ = ["MemorizationAware", "Seesaw"]
