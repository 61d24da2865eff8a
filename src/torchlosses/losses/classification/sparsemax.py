"""The sparsemax loss: Fenchel-Young loss of the squared norm on the simplex."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.loss import RowLoss
from torchlosses.scores import Scores, as_scores


def project_simplex(scores: Tensor) -> Tensor:
    """Euclidean projection of each row on the probability simplex; -inf cells get 0. Differentiable on its support."""
    with torch.no_grad():
        ordered = scores.sort(-1, descending=True).values
        top = ordered[..., :1]
        ordered = (ordered - torch.where(top == -torch.inf, 0.0, top)).clamp(min=-2.0)  # the support lies within 1
        rank = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
        size = ((1 + rank * ordered) > ordered.cumsum(-1)).sum(-1, keepdim=True).clamp(min=1)
        threshold = (ordered.cumsum(-1).gather(-1, size - 1) - 1) / size
        top = torch.where(top == -torch.inf, 0.0, top)
        support = scores - top > threshold
    inside = torch.where(support, scores - top, 0.0)
    count = support.sum(-1, keepdim=True).clamp(min=1).to(scores.dtype)
    level = (inside.sum(-1, keepdim=True) - 1) / count
    return torch.where(support, inside - level, 0.0)


class Sparsemax(RowLoss):
    r"""Sparsemax loss: like cross-entropy, with a margin of 1 and predictions that can be exactly 0.

    ``max_p (<p, s> - |p|^2 / 2) - <q, s> + |q|^2 / 2`` over distributions p; its gradient is ``sparsemax(s) - q``, and it
    is 0 exactly where sparsemax(s) = q. Soft targets are q; several right columns share the mass evenly; rows without
    one are empty.

    >>> import torch, torchlosses as tl
    >>> tl.Sparsemax()(torch.tensor([[0.5, 0.0]]), torch.tensor([0]))
    tensor(0.0625)
    >>> tl.Sparsemax().predict(torch.tensor([[0.5, 0.0, -1.0]]))
    tensor([[0.7500, 0.2500, 0.0000]])
    """

    card: ClassVar[Card] = Card(
        title="From Softmax to Sparsemax: A Sparse Model of Attention and Multi-Label Classification",
        year=2016,
        identifier="arXiv:1602.02068",
        family="classification",
        formula=r"\max_{p\in\Delta}\left(\langle p,s\rangle-\tfrac12\|p\|^2\right)-\langle q,s\rangle+\tfrac12\|q\|^2",
        purpose="Classification and multi-label learning with sparse predicted distributions.",
        tasks=("classification",),
        aliases=("SparsemaxLoss", "sparsemax_loss", "modified Huber loss (two classes)", "entmax alpha=2"),
        cost="O(BL log L)",
    )
    accepts = ("probability",)
    copies = 10.0

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        q = targets.probability
        mass = q.sum(-1)
        shown = scores if targets.all_valid else scores.masked_fill(~targets.valid, -torch.inf)
        p = project_simplex(shown)
        # shifted by the largest score: with mass 1 the value does not depend on it
        top = targets.max(scores.detach(), empty=0.0)
        value = targets.sum((p - q) * (scores - top[:, None])) + (1 - mass) * top
        return value + (q * q - p * p).sum(-1) / 2, mass

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The projection of the scores on the probability simplex (..., L)."""
        return project_simplex(as_scores(scores).tensor())
