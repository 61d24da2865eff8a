"""Proper scores of the softmax other than the logarithm, and the softmax of the largest scores only."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import integer
from torchlosses.loss import RowLoss
from torchlosses.scores import Scores, as_scores


def softmax_of(scores: Tensor, targets: Block) -> Tensor:
    """Softmax over the existing cells (b, L), 0 elsewhere."""
    p = targets.log_softmax(scores).exp()
    return p if targets.all_valid else torch.where(targets.valid, p, 0.0)


class Brier(RowLoss):
    r"""Brier score ``sum_k (p_k - q_k)^2`` of the softmax p: a bounded proper score.

    Neither halved nor divided by C. Targets are classes or distributions q.

    >>> import torch, torchlosses as tl
    >>> tl.Brier()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.0284)
    """

    card: ClassVar[Card] = Card(
        title="Verification of Forecasts Expressed in Terms of Probability",
        year=1950,
        identifier="Monthly Weather Review 78(1)",
        family="classification",
        formula=r"\sum_k(p_k-q_k)^2",
        purpose="Calibrated probabilities with a bounded loss, so that wrong labels cost less.",
        tasks=("classification",),
        aliases=("BrierLoss", "BrierScore", "brier_score_loss", "squared error of probabilities"),
    )
    accepts = ("probability",)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        return targets.sum((softmax_of(scores, targets) - targets.probability).square())


class SphericalScore(RowLoss):
    r"""Spherical score ``1 - <q, p> / |p|`` of the softmax p: a bounded proper score.

    >>> import torch, torchlosses as tl
    >>> tl.SphericalScore()(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.0090)
    """

    card: ClassVar[Card] = Card(
        title="Strictly Proper Scoring Rules, Prediction, and Estimation",
        year=2007,
        identifier="doi:10.1198/016214506000001437",
        family="classification",
        formula=r"1-\langle q,p\rangle/\|p\|",
        purpose="Calibrated probabilities with a bounded loss that looks at the direction of p only.",
        tasks=("classification",),
        aliases=("SphericalScoreLoss", "spherical scoring rule"),
    )
    accepts = ("probability",)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        # over the largest exp(s): the norm is then at least 1
        top = targets.max(scores.detach(), empty=0.0)
        u = torch.where(targets.valid, scores - top[:, None], -torch.inf).exp()
        norm = u.square().sum(-1)
        norm = torch.where(norm > 0, norm, 1.0).sqrt()
        return 1 - (targets.probability * u).sum(-1) / norm


class RankedProbabilityScore(RowLoss):
    r"""Ranked probability score ``sum_k (P_k - Q_k)^2`` of cumulative probabilities, for classes in an order.

    P and Q are the cumulative sums of the softmax and of the target; not divided by C - 1.

    >>> import torch, torchlosses as tl
    >>> tl.RankedProbabilityScore()(torch.zeros(2, 3), torch.tensor([0, 1]))
    tensor(0.3889)
    """

    card: ClassVar[Card] = Card(
        title="A Scoring System for Probability Forecasts of Ranked Categories",
        year=1969,
        identifier="Journal of Applied Meteorology 8(6)",
        family="classification",
        formula=r"\sum_k\left(\sum_{j\le k}p_j-q_j\right)^2",
        purpose="Ordered classes: being wrong by more costs more.",
        tasks=("classification",),
        aliases=("RPS", "ranked probability score", "EMD squared", "earth mover's distance loss"),
    )
    accepts = ("probability",)

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        return targets.sum((softmax_of(scores, targets) - targets.probability).cumsum(-1).square())


class SparseSoftmax(RowLoss):
    r"""Sparse softmax: ``log sum_{j in T} e^{s_j} - s_y`` with T the k largest scores; at least 0 if y is in T.

    Arguments:
        k: how many scores compete, >= 1; at k >= C it is cross-entropy.

    Where y is not in T the loss stays finite, its gradient still raises s_y. Of scores equal at the k-th place any k.

    >>> import torch, torchlosses as tl
    >>> tl.SparseSoftmax(k=2)(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0]))
    tensor(0.1269)
    >>> tl.SparseSoftmax(k=2).predict(torch.tensor([[2.0, 0.0, -1.0]]))
    tensor([[0.8808, 0.1192, 0.0000]])
    """

    card: ClassVar[Card] = Card(
        title="Sparse-softmax: A Simpler and Faster Alternative Softmax Transformation",
        year=2021,
        identifier="arXiv:2112.12433",
        family="classification",
        formula=r"\log\sum_{j\in T_k}e^{s_j}-\langle q,s\rangle",
        purpose="Fine-tuning with many classes: only the strongest rivals are pushed down.",
        tasks=("classification",),
        aliases=("SparseSoftmaxLoss", "top-k softmax"),
        equals=("CrossEntropy at k >= C",),
        detached="which scores are among the k largest",
    )
    accepts = ("probability",)

    k: int = integer(10, "how many scores compete", low=1, search=(5, 100))

    def rule(self, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
        q = targets.probability
        shown = scores.detach() if targets.all_valid else scores.detach().masked_fill(~targets.valid, -torch.inf)
        mass = q.sum(-1)
        return mass * targets.logsumexp(scores, _among(shown, self.k)).clamp(min=-1e30) - (q * scores).sum(-1), mass

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The softmax over the k largest scores of each row (..., L), 0 elsewhere."""
        s = as_scores(scores).tensor()
        return s.masked_fill(~_among(s, self.k), -torch.inf).softmax(-1)


def _among(scores: Tensor, k: int) -> Tensor:
    """Which cells hold the k largest scores of their row (..., L)."""
    places = scores.topk(min(k, scores.shape[-1]), dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, places, True)
