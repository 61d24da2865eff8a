"""Divergences between the softmax of a student's scores and a teacher's."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import flag, real
from torchlosses.loss import RowLoss
from torchlosses.scores import Scores

NEVER = -1e4  # log of a teacher's probability of 0


class Divergence(RowLoss):
    """Base of the divergences: log-probabilities of both sides at one temperature.

    Each side is normalized over the cells it has: a teacher's -inf is a probability of 0, and the student still spends
    what it gives to that cell; where the divergence would be infinite the cell adds 0. The student's own -inf cells exist
    for neither.
    """

    accepts = ("scores",)
    joint_support = False

    temperature: float = real(1.0, "divides both sides' scores", above=0, search=(0.5, 8.0, "log"))
    scale_t2: bool = flag(False, "whether the value is multiplied by temperature^2")

    def prescale(self) -> float:
        return 1.0 / self.temperature

    def scale_teacher(self, scores: Scores) -> Scores:
        return scores.times(1.0 / self.temperature)

    def rule(self, scores: Tensor, targets: Block) -> Returned:
        known = targets.scores.detach().to(scores.dtype)
        teacher = targets.log_softmax(known, targets.known)
        if targets.known is not None:
            teacher = teacher.masked_fill(~targets.known, NEVER)
        value = self.divergence(targets.log_softmax(scores), teacher, targets)
        return value * self.temperature**2 if self.scale_t2 else value

    def divergence(self, student: Tensor, teacher: Tensor, targets: Block) -> Tensor:
        """From log-probabilities (b, L); entries of cells that do not exist mean nothing."""
        raise NotImplementedError


def _mixture(first: Tensor, second: Tensor, share: float) -> Tensor:
    """log of share * exp(first) + (1 - share) * exp(second)."""
    if share in (0, 1):
        return first if share == 1 else second
    return torch.logaddexp(first + math.log(share), second + math.log1p(-share))


class ForwardKL(Divergence):
    r"""Divergence of the student from its teacher, :math:`\mathrm{KL}(p_t\|p_s)`: covers the teacher's modes.

    Arguments:
        temperature: divides both sides' scores, > 0. scale_t2: multiplies the value by its square.
        skew: share of the teacher in the second argument, [0, 1): :math:`\mathrm{KL}(p_t\|\alpha p_t+(1-\alpha)p_s)`.
        entropy: False leaves the teacher's entropy out: the cross-entropy, of the same gradient.

    Targets: ``teacher(scores)``, a tensor or a recipe such as ``linear(h, W)``. Cells of -inf on either side add nothing.

    >>> import torch, torchlosses as tl
    >>> tl.ForwardKL()(torch.tensor([[1.0, 0.0]]), tl.teacher(torch.tensor([[0.0, 1.0]])))
    tensor(0.4621)
    """

    card: ClassVar[Card] = Card(
        title="Distilling the Knowledge in a Neural Network",
        year=2015,
        identifier="arXiv:1503.02531",
        family="distillation",
        formula=r"\sum_j p_t(j)\,[\log p_t(j)-\log p_s(j)]",
        purpose="Teach a student a teacher's distribution.",
        aliases=("KLDivLoss", "knowledge distillation", "DistillKL", "ListwiseKL", "SkewForwardKL", "soft cross-entropy"),
        detached="the teacher",
        equals=("GeneralizedJSD(beta=0)", "CrossEntropy with soft targets: entropy=False"),
    )

    skew: float = real(0.0, "share of the teacher in the second argument", low=0, below=1)
    entropy: bool = flag(True, "whether the teacher's entropy is subtracted")

    def divergence(self, student: Tensor, teacher: Tensor, targets: Block) -> Tensor:
        other = _mixture(teacher, student, self.skew)
        return targets.sum(teacher.exp() * ((teacher - other) if self.entropy else -other))


class ReverseKL(Divergence):
    r"""Divergence of the teacher from its student, :math:`\mathrm{KL}(p_s\|p_t)`: seeks the teacher's modes.

    Arguments:
        temperature: divides both sides' scores, > 0. scale_t2: multiplies the value by its square.
        skew: share of the student in the second argument, [0, 1): :math:`\mathrm{KL}(p_s\|\alpha p_s+(1-\alpha)p_t)`.

    >>> import torch, torchlosses as tl
    >>> tl.ReverseKL()(torch.tensor([[1.0, 0.0]]), tl.teacher(torch.tensor([[0.0, 1.0]])))
    tensor(0.4621)
    """

    card: ClassVar[Card] = Card(
        title="MiniLLM: Knowledge Distillation of Large Language Models",
        year=2023,
        identifier="arXiv:2306.08543",
        family="distillation",
        formula=r"\sum_j p_s(j)\,[\log p_s(j)-\log p_t(j)]",
        purpose="Teach a student the main modes of a teacher's distribution.",
        aliases=("reverse KLD", "SkewReverseKL", "mode-seeking KL"),
        detached="the teacher",
        equals=("GeneralizedJSD(beta=1)",),
    )

    skew: float = real(0.0, "share of the student in the second argument", low=0, below=1)

    def divergence(self, student: Tensor, teacher: Tensor, targets: Block) -> Tensor:
        shown = targets.known if self.skew == 0 else None
        return targets.sum(student.exp() * (student - _mixture(student, teacher, self.skew)), shown)


class GeneralizedJSD(Divergence):
    r"""Generalized Jensen-Shannon divergence, :math:`\beta\,\mathrm{KL}(p_t\|m)+(1-\beta)\,\mathrm{KL}(p_s\|m)`.

    The mixture is :math:`m=\beta p_t+(1-\beta)p_s`. By convention beta = 0 is the forward and beta = 1 the reverse KL
    (of which the divergence over beta, or over 1 - beta, is the limit).

    Arguments:
        beta: in [0, 1]; 1/2 is the Jensen-Shannon divergence.
        temperature: divides both sides' scores, > 0. scale_t2: multiplies the value by its square.

    >>> import torch, torchlosses as tl
    >>> tl.GeneralizedJSD()(torch.tensor([[1.0, 0.0]]), tl.teacher(torch.tensor([[0.0, 1.0]])))
    tensor(0.1109)
    """

    card: ClassVar[Card] = Card(
        title="On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes (GKD)",
        year=2023,
        identifier="arXiv:2306.13649",
        family="distillation",
        formula=r"\beta\,\mathrm{KL}(p_t\|m)+(1-\beta)\,\mathrm{KL}(p_s\|m),\quad m=\beta p_t+(1-\beta)p_s",
        purpose="Teach a student by a bounded divergence between mode covering and mode seeking.",
        aliases=("GKDTrainer", "LigerFusedLinearJSDLoss", "JensenShannon", "generalized_jsd_loss"),
        detached="the teacher",
        equals=("ForwardKL: beta=0", "ReverseKL: beta=1"),
    )

    beta: float = real(0.5, "weight of the teacher", low=0, high=1, search=(0.0, 1.0))

    def divergence(self, student: Tensor, teacher: Tensor, targets: Block) -> Tensor:
        if self.beta == 0:
            return targets.sum(teacher.exp() * (teacher - student))
        if self.beta == 1:
            return targets.sum(student.exp() * (student - teacher), targets.known)
        mixture = _mixture(teacher, student, self.beta)
        known, own = teacher.exp() * (teacher - mixture), student.exp() * (student - mixture)
        return targets.sum(self.beta * known + (1 - self.beta) * own)
