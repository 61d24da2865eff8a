"""One pair rule: every objective that sums a function of score differences over the pairs of a list."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import choice, flag, integer, real
from torchlosses.loss import RowLoss
from torchlosses.losses.surrogates import SURROGATES, surrogate

WEIGHTS = (
    "none",
    "label_diff",
    "label_diff_sq",
    "inverse_rank_sum",
    "lambdarank",
    "ndcg1",
    "ndcg2",
    "ndcg2pp",
    "precision",
)


class PairwiseLoss(RowLoss):
    r"""Sum over pairs of a list with :math:`y_i > y_j` of :math:`w_{ij}\,\phi((s_i - s_j)/T)`.

    Arguments:
        phi: 'logistic' softplus(-d), 'hinge' relu(m-d), 'squared_hinge', 'exponential' exp(-d), 'sigmoid' (soft 0-1 error),
            'square' (m-d)^2, 'savage' sigmoid(-d)^2; 'difference' (d - (y_i-y_j))^2 over all ordered pairs;
            'quantile' q relu(y_i-y_j-d) + (1-q) relu(d-y_i+y_j) and 'squared_quantile', with relu squared.
        weight: 'none'; label weights 'label_diff' y_i-y_j, 'label_diff_sq' y_i^2-y_j^2, 'inverse_rank_sum' (by grade);
            metric weights 'lambdarank', 'ndcg1' (all ordered pairs), 'ndcg2', 'ndcg2pp', 'precision'. Never differentiated.
        margin: m of the hinges and the square.
        temperature: T > 0, divides the scores.
        k: cut-off of the metric, or None. k_mode: 'metric' (discounts beyond k are 0; ndcg2 becomes LambdaLoss@k),
            'either' / 'both' (keeps pairs with either / both ranks within k, discounts untouched).
        gain: 'exponential' 2^y - 1 or 'linear' y. normalize: divides metric weights by the ideal DCG.
        mu: share of ndcg2 in ndcg2pp. quantile: q in (0, 1). log_base: 'e' or '2', of the logistic phi.
        ties: 'skip', or 'half' (all ordered pairs with target 1, 1/2 or 0). diagonal: pairs i = j count where all pairs do.
        per_row: 'sum' over a row's pairs, or their 'mean'.

    Reductions: ``over='rows'`` is the mean of row sums, ``over='pairs'`` pools all pairs of the batch. The field
    ``item_weight`` (B, L) multiplies the pairs whose better item it belongs to. Ranks are taken on detached scores, equal
    scores by index. Items that a mask removes are as if absent.

    >>> import torch, torchlosses as tl
    >>> tl.PairwiseLoss(phi="hinge")(torch.tensor([[0.2, 0.5, 0.0]]), torch.tensor([[2, 1, 0]]))
    tensor(2.6000)
    """

    card: ClassVar[Card] = Card(
        title="Learning to Rank using Gradient Descent",
        year=2005,
        identifier="ICML 2005",
        family="ranking",
        formula=r"\sum_{y_i>y_j} w_{ij}\,\phi\left((s_i-s_j)/T\right)",
        purpose="Order the items of a list: any surrogate of the number of wrongly ordered pairs, any pair weight.",
        tasks=("retrieval",),
        scores="list",
        aliases=(
            "pairwise_hinge_loss",
            "pairwise_logistic_loss",
            "pairwise_mse_loss",
            "pairwise_soft_zero_one_loss",
            "pairwise_qr_loss",
            "MarginRankingLoss",
            "AllPairsAUC",
        ),
        cost="O(BL^2)",
        over="rows (row sums); 'pairs' pools",
        detached="pair weights and ranks",
        equals=(
            "RankNet: phi='logistic'",
            "LambdaRank: weight='lambdarank'",
            "LambdaLoss: weight='ndcg2'",
            "BPR: per_row='mean'",
        ),
        note="the exponential phi continues linearly above 80",
    )
    accepts = ("grade",)
    plain = "graded"

    phi: str = choice(
        "logistic",
        "function of the score difference",
        options=(*SURROGATES, "difference", "quantile", "squared_quantile"),
    )
    weight: str = choice("none", "weight of a pair", options=WEIGHTS)
    margin: float = real(1.0, "margin of the hinges and the square", search=(0.1, 3.0, "log"))
    temperature: float = real(1.0, "divides the scores", above=0, search=(0.02, 5.0, "log"))
    k: int | None = integer(None, "cut-off of the metric", low=1, optional=True)
    k_mode: str = choice("metric", "what the cut-off does", options=("metric", "either", "both"))
    gain: str = choice("exponential", "gain of a grade", options=("exponential", "linear"))
    normalize: bool = flag(True, "whether metric weights are divided by the ideal DCG")
    mu: float = real(10.0, "share of ndcg2 in ndcg2pp", low=0, search=(1.0, 20.0))
    quantile: float = real(0.5, "q of the quantile forms", above=0, below=1)
    log_base: str = choice("e", "base of the logistic phi's logarithm", options=("e", "2"))
    ties: str = choice("skip", "pairs of equal grades", options=("skip", "half"))
    diagonal: bool = flag(False, "whether pairs i = j count where all ordered pairs do")
    per_row: str = choice("sum", "how a row's pairs become its value", options=("sum", "mean"))

    def prescale(self) -> float:
        return 1.0 / self.temperature

    def temporaries(self, columns: int) -> float:
        return 8.0 + 6.0 * columns  # about six (b, L, L)

    def rule(self, scores: Tensor, targets: Block, *, item_weight: Tensor | None = None) -> Returned:
        grade = targets.grade
        difference, better = targets.differences(scores), targets.differences(grade)
        pairs = targets.pairs(targets.valid, targets.valid)
        every = self.ties == "half" or self.phi == "difference" or self.weight == "ndcg1"
        if not every:
            pairs = pairs & (better > 0)
        elif not self.diagonal:
            pairs = pairs & ~torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
        value = self._phi(difference, better)
        if self.ties == "half":
            target = 0.5 + 0.5 * better.sign()
            value = target * value + (1 - target) * self._phi(-difference, -better)
        if self.weight != "none":
            weight, kept = self._weight(scores.detach(), grade.detach(), targets)
            value, pairs = value * weight, pairs if kept is None else pairs & kept
        if item_weight is not None:
            value = value * item_weight.to(scores.dtype).reshape(scores.shape)[:, :, None]
        total = torch.where(pairs, value, 0.0).sum((1, 2))
        count = pairs.sum((1, 2)).to(scores.dtype)
        return (total / count.clamp(min=1) if self.per_row == "mean" else total), count

    def _phi(self, difference: Tensor, better: Tensor) -> Tensor:
        if self.phi in SURROGATES:
            value = surrogate(self.phi, difference, self.margin)
            return value / math.log(2) if self.log_base == "2" and self.phi == "logistic" else value
        gap = better - difference
        if self.phi == "difference":
            return gap.square()
        under, over = gap.relu(), (-gap).relu()
        if self.phi == "squared_quantile":
            under, over = under.square(), over.square()
        return self.quantile * under + (1 - self.quantile) * over

    def _weight(self, scores: Tensor, grade: Tensor, targets: Block) -> tuple[Tensor, Tensor | None]:
        """Weights (b, L, L), and the pairs that a cut-off keeps (None: all)."""
        if self.weight == "label_diff":
            return targets.differences(grade).abs(), None
        if self.weight == "label_diff_sq":
            return targets.differences(grade.square()).abs(), None
        if self.weight == "inverse_rank_sum":
            rank = ranks(grade, targets.valid)
            return 1 / (rank[:, :, None] + rank[:, None, :]), None
        rank = ranks(scores, targets.valid)
        first, second = rank[:, :, None], rank[:, None, :]
        k = math.inf if self.k is None else float(self.k)
        within = (first <= k, second <= k)
        if self.weight == "precision":
            relevant = grade >= 1
            crosses = (within[0] != within[1]) & (relevant[:, :, None] != relevant[:, None, :])
            return torch.ones_like(crosses, dtype=scores.dtype), crosses
        gain = grade.exp2() - 1 if self.gain == "exponential" else grade
        gain = torch.where(targets.valid, gain, 0.0)
        if self.normalize:
            ideal = gain.masked_fill(~targets.valid, -torch.inf).sort(-1, descending=True)[0]
            place = torch.arange(1, gain.shape[1] + 1, device=gain.device, dtype=gain.dtype)
            best = torch.where((place <= k) & ideal.isfinite(), ideal * _discount(place), 0.0).sum(-1)
            gain = gain / torch.where(best == 0, 1.0, best)[:, None]
        kept = None
        if self.k is not None and self.k_mode != "metric":
            kept = within[0] | within[1] if self.k_mode == "either" else within[0] & within[1]
        cut = k if self.k_mode == "metric" else math.inf
        return self._metric_weight(gain, rank, cut, targets), kept

    def _metric_weight(self, gain: Tensor, rank: Tensor, cut: float, targets: Block) -> Tensor:
        discount = torch.where(rank <= cut, _discount(rank), 0.0)
        if self.weight == "ndcg1":
            return (gain * discount)[:, :, None].expand(-1, -1, gain.shape[1])
        swap = targets.differences(gain).abs()
        exact = swap * targets.differences(discount).abs()
        if self.weight == "lambdarank":
            return exact
        apart = targets.differences(rank).abs()
        bound = swap * (_discount(apart.clamp(min=1)) - _discount(apart + 1)).abs()
        if cut < math.inf:  # LambdaLoss@k
            lower = torch.maximum(rank[:, :, None], rank[:, None, :])
            bound = bound / torch.where(lower > cut, 1 - _discount(lower.clamp(min=2)), 1.0)
        return bound if self.weight == "ndcg2" else self.mu * bound + exact


def ranks(scores: Tensor, valid: Tensor) -> Tensor:
    """Ranks from 1 by descending score (b, L), equal scores by index, cells that do not exist last."""
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    place = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    return torch.empty_like(scores).scatter_(1, order, place.expand_as(scores))


def _discount(rank: Tensor) -> Tensor:
    return 1 / torch.log2(1 + rank)


class RankNet(PairwiseLoss):
    r"""Logistic loss of every pair of a list: :math:`\sum_{y_i>y_j}\log(1+e^{-(s_i-s_j)/T})`; see :class:`PairwiseLoss`.

    >>> import torch, torchlosses as tl
    >>> tl.RankNet()(torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 0]]))
    tensor(0.3133)
    """

    card = Card(
        title="Learning to Rank using Gradient Descent",
        year=2005,
        identifier="ICML 2005",
        family="ranking",
        formula=r"\sum_{y_i>y_j}\log\left(1+e^{-(s_i-s_j)/T}\right)",
        purpose="Order the items of a list, every wrongly ordered pair alike.",
        tasks=("retrieval",),
        scores="list",
        aliases=("RankNetLoss", "pairwise_logistic_loss", "PairLogit", "rank:pairwise", "FIRST weighted RankNet"),
        cost="O(BL^2)",
        detached="pair weights",
        equals=("PairwiseLoss(phi='logistic')", "weight='inverse_rank_sum', over='pairs': FIRST (arXiv:2406.15657)"),
    )


class LambdaRank(PairwiseLoss):
    r"""RankNet whose pairs weigh what swapping them changes NDCG: :math:`w_{ij}=|G_i-G_j|\,|D(r_i)-D(r_j)|/Z`.

    >>> import torch, torchlosses as tl
    >>> tl.LambdaRank()(torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 0]]))
    tensor(0.1156)
    """

    card = Card(
        title="From RankNet to LambdaRank to LambdaMART: An Overview",
        year=2010,
        identifier="MSR-TR-2010-82",
        family="ranking",
        formula=r"\sum_{y_i>y_j}\frac{|G_i-G_j|}{Z}|D(r_i)-D(r_j)|\log\left(1+e^{-(s_i-s_j)/T}\right)",
        purpose="Order the items of a list with the weight on its top, for NDCG.",
        tasks=("retrieval",),
        scores="list",
        aliases=("lambdarank", "rank:ndcg", "lambdaRank_scheme", "LambdaMART"),
        cost="O(BL^2)",
        detached="pair weights and ranks",
        equals=("PairwiseLoss(weight='lambdarank')",),
    )
    weight = "lambdarank"


class LambdaLoss(PairwiseLoss):
    r"""Metric-driven pair weights: :math:`w_{ij}=|G_i-G_j|\,|D(d)-D(d+1)|/Z`, :math:`d=|r_i-r_j|` (NDCG-Loss2).

    ``weight='ndcg1'``, ``'ndcg2'``, ``'ndcg2pp'``; ``k`` gives LambdaLoss@k. See :class:`PairwiseLoss`.

    >>> import torch, torchlosses as tl
    >>> tl.LambdaLoss()(torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 0]]))
    tensor(0.1156)
    """

    card = Card(
        title="The LambdaLoss Framework for Ranking Metric Optimization",
        year=2018,
        identifier="CIKM 2018, doi:10.1145/3269206.3271784",
        family="ranking",
        formula=r"\sum_{y_i>y_j}\frac{|G_i-G_j|}{Z}|D(|r_i-r_j|)-D(|r_i-r_j|+1)|\log\left(1+e^{-(s_i-s_j)/T}\right)",
        purpose="Order the items of a list by a bound on NDCG.",
        tasks=("retrieval",),
        scores="list",
        aliases=("ndcgLoss2_scheme", "NDCGLoss2PP", "lambda_loss", "LiPO-lambda", "LambdaLoss@K"),
        cost="O(BL^2)",
        detached="pair weights and ranks",
        equals=("PairwiseLoss(weight='ndcg2')",),
    )
    weight = "ndcg2"


class BPR(PairwiseLoss):
    r"""Bayesian personalised ranking: mean over pairs of :math:`\log(1+e^{-(s_+-s_-)})`.

    >>> import torch, torchlosses as tl
    >>> tl.BPR()(torch.tensor([[1.0, 0.0, 0.0]]), tl.preferred())
    tensor(0.3133)
    """

    card = Card(
        title="BPR: Bayesian Personalized Ranking from Implicit Feedback",
        year=2009,
        identifier="arXiv:1205.2618",
        family="ranking",
        formula=r"\frac{1}{|P|}\sum_{y_i>y_j}\log\left(1+e^{-(s_i-s_j)}\right)",
        purpose="Recommend: rank what a user chose above sampled other items.",
        tasks=("retrieval",),
        scores="list",
        aliases=("BPRLoss", "pairwise logistic loss"),
        cost="O(BL^2)",
        equals=("PairwiseLoss(per_row='mean')",),
    )
    per_row = "mean"
