"""Likelihoods of a whole list: ListNet and ListMLE."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import choice, integer, real
from torchlosses.loss import RowLoss


class ListNet(RowLoss):
    r"""Cross-entropy of the scores' softmax with one made of the grades: :math:`-\sum_i q_i\log\mathrm{softmax}(s/T)_i`.

    Arguments:
        target: q is the 'softmax' of the grades (ListNet), the grades themselves ('sum': softmax cross-entropy of lists)
            or the grades over their sum ('normalized'). Rows without a positive grade are then empty.
        temperature: T > 0. target_temperature: divides the grades before their softmax, > 0.
        k: 1, or 2 for the probabilities of ordered pairs at the top (softmax targets only).

    Grades, or the scores of a teacher: ``teacher(t)``.

    >>> import torch, torchlosses as tl
    >>> tl.ListNet()(torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 0]]))
    tensor(0.5822)
    """

    card: ClassVar[Card] = Card(
        title="Learning to Rank: From Pairwise Approach to Listwise Approach",
        year=2007,
        identifier="ICML 2007",
        family="ranking",
        formula=r"-\sum_i \mathrm{softmax}(y)_i\log\mathrm{softmax}(s/T)_i",
        purpose="Order a list by matching the distribution of its best item; distil a ranker's scores.",
        tasks=("retrieval",),
        scores="list",
        aliases=("ListwiseSoftmax", "softmax_loss", "binary_listNet", "Distill-VQ", "top-one cross entropy"),
        cost="O(BL), k=2: O(BL^2)",
        detached="teacher scores",
    )
    accepts = ("grade", "scores")
    plain = "graded"

    target: str = choice("softmax", "distribution made of the grades", options=("softmax", "sum", "normalized"))
    temperature: float = real(1.0, "divides the scores", above=0, search=(0.02, 5.0, "log"))
    target_temperature: float = real(1.0, "divides the grades", above=0, search=(0.1, 5.0, "log"))
    k: int = integer(1, "length of the prefix", low=1)

    def setup(self) -> None:
        if self.k > 2:
            raise ValueError(f"k: expected 1 or 2, got {self.k}")
        if self.k == 2 and self.target != "softmax":
            raise ValueError("k: expected 1 unless target='softmax', got 2")

    def prescale(self) -> float:
        return 1.0 / self.temperature

    def temporaries(self, columns: int) -> float:
        return 8.0 + (6.0 * columns if self.k == 2 else 0.0)  # about six (b, L, L)

    def rule(self, scores: Tensor, targets: Block) -> Returned:
        grade = targets.scores if targets.kind == "teacher" else targets.grade
        log_student = targets.log_softmax(scores)
        if self.target == "softmax":
            grade = grade / self.target_temperature
            log_target = targets.log_softmax(grade)
            if self.k == 2:
                return self._second(scores, log_student, grade, log_target, targets)
            return -targets.sum(log_target.exp() * log_student)
        mass = targets.sum(grade)
        if self.target == "normalized":
            grade = grade / torch.where(mass == 0, 1.0, mass)[:, None]
        return -targets.sum(grade * log_student), (mass != 0).to(scores.dtype)

    @staticmethod
    def _second(scores: Tensor, log_student: Tensor, grade: Tensor, log_target: Tensor, targets: Block) -> Returned:
        """Cross-entropy over ordered pairs (i first, j second), i != j."""
        eye = torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
        others = targets.pairs(targets.valid, targets.valid) & ~eye

        def pair(first: Tensor, x: Tensor) -> Tensor:
            b, n = x.shape
            left = x[:, None, :].expand(b, n, n).masked_fill(~others, torch.finfo(x.dtype).min / 4)
            joint = first[:, :, None] + x[:, None, :] - left.logsumexp(-1)[:, :, None]
            return torch.where(others, joint, 0.0)

        cross = pair(log_target, grade).exp() * pair(log_student, scores)
        return -torch.where(others, cross, 0.0).sum((1, 2)), targets.count() - 1


class ListMLE(RowLoss):
    r"""Negative Plackett-Luce log-likelihood: :math:`\sum_p w_p\,[\log\sum_{q\ge p}e^{s_{\pi(q)}}-s_{\pi(p)}]`.

    Arguments:
        temperature: divides the scores, > 0.
        k: only the first k positions, or None.
        position_weight: 'none'; 'exponential' 2^(n-p) - 1 (p-ListMLE) or 'doubled' 2^(n-p+1) - 1, n the row's items;
            'discount' 1/log2(1+p).
        normalize: 'none', by the row's 'length', or by the 'weights' (their sum).

    Equal grades are ordered by index. Exponential weights stop growing at 2^60; use normalize='weights' on long lists.

    >>> import torch, torchlosses as tl
    >>> tl.ListMLE()(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[2, 1, 0]]))
    tensor(0.7209)
    """

    card: ClassVar[Card] = Card(
        title="Listwise Approach to Learning to Rank: Theory and Algorithm",
        year=2008,
        identifier="ICML 2008",
        family="ranking",
        formula=r"\sum_p w_p\left[\log\sum_{q\ge p}e^{s_{\pi(q)}}-s_{\pi(p)}\right]",
        purpose="Make a known order of a list the most likely one.",
        tasks=("retrieval",),
        scores="list",
        aliases=("PlackettLuce", "listmle_loss", "list_mle_loss", "ListMLELoss", "DPO-PL"),
        cost="O(BL log L)",
        equals=("PListMLE: position_weight='exponential'",),
    )
    accepts = ("grade", "scores")
    plain = "graded"

    temperature: float = real(1.0, "divides the scores", above=0, search=(0.02, 5.0, "log"))
    k: int | None = integer(None, "number of positions", low=1, optional=True)
    position_weight: str = choice("none", "weight of a position", options=("none", "exponential", "doubled", "discount"))
    normalize: str = choice("none", "what a row is divided by", options=("none", "length", "weights"))

    def prescale(self) -> float:
        return 1.0 / self.temperature

    def rule(self, scores: Tensor, targets: Block) -> Returned:
        grade = targets.scores if targets.kind == "teacher" else targets.grade
        order = grade.detach().masked_fill(~targets.valid, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        # a stable sort leaves no existing cell behind a missing one unless its grade is -inf
        exists = targets.valid.gather(1, order)
        low = torch.finfo(scores.dtype).min / 4  # not -inf: its gradient would be NaN
        ordered = scores.gather(1, order).masked_fill(~exists, low)
        rest = ordered.flip(-1).logcumsumexp(-1).flip(-1)
        place = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
        length = targets.count()[:, None]
        weight = self._weight(place, length)
        used = exists if self.k is None else exists & (place <= self.k)
        total = torch.where(used, weight * (rest - ordered), 0.0).sum(-1)
        if self.normalize == "length":
            total = total / length.squeeze(1).clamp(min=1)
        elif self.normalize == "weights":
            mass = torch.where(used, weight, 0.0).sum(-1)
            total = total / torch.where(mass > 0, mass, 1.0)
        return total

    def _weight(self, place: Tensor, length: Tensor) -> Tensor:
        if self.position_weight == "none":
            return torch.ones_like(place).expand(length.shape[0], -1)
        if self.position_weight == "discount":
            return (1 / torch.log2(1 + place)).expand(length.shape[0], -1)
        more = 1 if self.position_weight == "doubled" else 0
        if self.normalize == "weights":  # a common factor cancels
            return (more - place).exp2() - (-length).exp2()
        return (length - place + more).clamp(max=60).exp2() - 1


class PListMLE(ListMLE):
    r"""Position-aware ListMLE: position p of n weighs :math:`2^{n-p}-1`.

    >>> import torch, torchlosses as tl
    >>> tl.PListMLE()(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[2, 1, 0]]))
    tensor(1.5361)
    """

    card = Card(
        title="Position-Aware ListMLE: A Sequential Learning Process for Ranking",
        year=2014,
        identifier="UAI 2014",
        family="ranking",
        formula=r"\sum_p (2^{n-p}-1)\left[\log\sum_{q\ge p}e^{s_{\pi(q)}}-s_{\pi(p)}\right]",
        purpose="ListMLE with the weight on the first positions.",
        tasks=("retrieval",),
        scores="list",
        aliases=("p-ListMLE", "PListMLELoss"),
        cost="O(BL log L)",
        equals=("ListMLE(position_weight='exponential')",),
    )
    position_weight = "exponential"
