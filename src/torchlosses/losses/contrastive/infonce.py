"""InfoNCE: a softmax over in-batch and mined candidates, and its named forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned, Summary, finite
from torchlosses.hyperparameters import choice, flag, real
from torchlosses.loss import RowLoss
from torchlosses.losses.symmetric import Symmetric
from torchlosses.scores import Scores, as_scores, concat
from torchlosses.targets import Targets

SINGLE = ("classes", "paired", "preferred")


class InfoNCE(RowLoss):
    r"""Contrastive cross-entropy of each row's positives against its other columns.

    With targets P (one-hot, uniform over several positives, or soft weights) and s the scores over ``temperature``:
    ``sum_j P_j (Z_j - s_j)``, where ``Z_j`` is the log-sum-exp over the columns in the denominator.

    Arguments:
        temperature: divides the scores, > 0.
        positives_in_denominator: 'all' columns; 'own': the positive itself and the negatives (NT-Xent with several
            positives); 'none': the negatives only (decoupled; unbounded below, a row without negatives is empty).
        over: 'rows' by default; 'pairs' is the mean over all positive pairs of the batch, as NT-Xent with labels.

    Optional fields: ``log_weight`` (B, L), added to a column's score in the denominators only (-inf takes it out);
    ``positive_weight`` (B,), a factor on the positives' scores (DCLW). Hard negatives are more columns:
    ``cosine(q, torch.cat([docs, negatives]))`` shared, ``concat(cosine(q, docs), per_row(q, own))`` private.

    >>> import torch, torchlosses as tl
    >>> tl.InfoNCE(temperature=1.0)(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), tl.paired())
    tensor(0.3133)
    """

    card: ClassVar[Card] = Card(
        title="Representation Learning with Contrastive Predictive Coding",
        year=2018,
        identifier="arXiv:1807.03748",
        family="contrastive",
        formula=r"\sum_j P_j \left(\log\sum_{k \in D_j} w_k e^{s_k/\tau} - s_j/\tau\right)",
        purpose="Pull each query to its own key and away from every other key of the batch.",
        tasks=("retrieval", "pairs", "classification"),
        scores="cosine",
        aliases=(
            "NT-Xent",
            "NTXentLoss",
            "MultipleNegativesRankingLoss",
            "WeightedInfoNCE",
            "DCL",
            "decoupled contrastive loss",
            "N-pairs",
            "MoCo",
            "SimCLR",
        ),
        equals=("CrossEntropy on scores / temperature", "DCL at positives_in_denominator='none'"),
        note="'none' on a row without negatives is empty. The temperature of 0.07 is MoCo's; the paper has none.",
    )
    accepts = ("probability",)

    temperature: float = real(0.07, "divides the scores", above=0, search=(0.01, 1.0, "log"))
    positives_in_denominator: str = choice("all", "which positives stand in the denominator", options=("all", "own", "none"))

    def prescale(self) -> float | Tensor | None:
        return 1 / self.temperature

    summary = ("lse", "rest", "target")

    def streams(self, targets: Targets) -> tuple[str, ...]:
        if "log_weight" in targets.fields:
            return ()
        if targets.kind in SINGLE:
            return ("rest", "target") if self.positives_in_denominator == "none" else ("lse", "target")
        return ("lse", "target") if self.positives_in_denominator == "all" and not self._pairs else ()

    @property
    def _pairs(self) -> bool:
        return self.over in ("pairs", "terms")

    def from_summary(
        self, row: Summary, targets: Block, *, positive_weight: Tensor | None = None, **fields: Tensor
    ) -> Returned:
        target = row.target if positive_weight is None else positive_weight.to(row.target.dtype) * row.target
        if self.positives_in_denominator != "none":
            return row.mass * row.lse - target, row.mass
        some = torch.isfinite(row.rest.detach())
        return torch.where(some, finite(row.rest) - target, 0.0), row.mass * some

    def rule(
        self,
        scores: Tensor,
        targets: Block,
        *,
        log_weight: Tensor | None = None,
        positive_weight: Tensor | None = None,
    ) -> Returned:
        pairs = self._pairs and targets.kind != "soft"
        weight = targets.positive.to(scores.dtype) if pairs else targets.probability
        negative = targets.valid & (weight == 0)
        inside: Tensor | None = None
        weighted = scores
        if log_weight is not None:
            inside = log_weight.detach() != -torch.inf
            weighted = scores + torch.where(inside, log_weight.to(scores.dtype), 0.0)
            negative = negative & inside
        mass = targets.sum(weight)
        if self.positives_in_denominator == "all":
            pool = targets.logsumexp(weighted, inside)
        else:
            pool = targets.logsumexp(weighted, negative)
        some = torch.isfinite(pool.detach())
        if self.positives_in_denominator == "own":
            own = weighted if inside is None else weighted.masked_fill(~inside, -torch.inf)
            above = torch.logaddexp(own.masked_fill(~some[:, None], 0.0), finite(pool)[:, None])
            above = torch.where(some[:, None], above, scores)
            denominators = targets.sum(weight * torch.where(weight > 0, above, 0.0))
            some = torch.ones_like(some)
        else:
            denominators = mass * finite(pool)
        target = targets.sum(weight * scores)
        if positive_weight is not None:
            target = positive_weight.to(scores.dtype) * target
        return torch.where(some, denominators - target, 0.0), mass * some


class SymmetricInfoNCE(Symmetric):
    r"""InfoNCE in both directions, queries to keys and keys to queries: the objective of CLIP.

    Arguments:
        temperature, positives_in_denominator, reduction, over: as :class:`InfoNCE`.
        combine: 'mean' (CLIP) or 'sum' of the two directions.

    A learnable temperature is the caller's: ``SymmetricInfoNCE(temperature=1)(cosine(images, texts) * scale, paired())``.

    >>> import torch, torchlosses as tl
    >>> tl.SymmetricInfoNCE(temperature=1.0)(tl.dot(torch.eye(2), torch.eye(2)), tl.paired())
    tensor(0.3133)
    """

    card: ClassVar[Card] = Card(
        title="Learning Transferable Visual Models From Natural Language Supervision",
        year=2021,
        identifier="arXiv:2103.00020",
        family="contrastive",
        formula=r"\tfrac12\left(\mathrm{InfoNCE}(S) + \mathrm{InfoNCE}(S^\top)\right)",
        purpose="Align two kinds of examples, such as images and texts, in both directions.",
        tasks=("pairs",),
        scores="cosine",
        aliases=("CLIP", "ClipLoss", "MultipleNegativesSymmetricRankingLoss", "ConVIRT"),
        equals=("Symmetric(InfoNCE())",),
    )

    temperature: float = real(0.07, "divides the scores", above=0, search=(0.01, 1.0, "log"))
    positives_in_denominator: str = choice("all", "which positives stand in the denominator", options=("all", "own", "none"))

    def __init__(self, **hyperparameters: Any) -> None:
        own = {name: hyperparameters[name] for name in self._hypers if name in hyperparameters}
        inner = {name: value for name, value in hyperparameters.items() if name != "combine"}
        super().__init__(InfoNCE(**inner), **own)

    @property
    def reduction(self) -> Any:
        """The reduction of each direction."""
        return self.loss.reduction


class JointInfoNCE(InfoNCE):
    r"""One softmax over four kinds of pairs: query-document, query-query, document-query and document-document.

    Takes one comparison of queries (B, D) with documents (L, D), such as ``cosine(queries, documents)``, and makes the
    other three from its operands. Documents are B positives, then further groups of B (hard negatives of query i at
    i + B, i + 2B, ...). A query is not compared with itself, nor a positive with the documents of its own query; the
    positive pair stands twice in the denominator.

    Arguments:
        temperature: divides the scores, > 0.
        query_query, document_query, document_document: which pieces stand in the denominator.

    >>> import torch, torchlosses as tl
    >>> tl.JointInfoNCE(temperature=1.0)(tl.cosine(torch.eye(2), torch.eye(2)), tl.paired())
    tensor(1.2446)
    """

    card: ClassVar[Card] = Card(
        title="Towards General Text Embeddings with Multi-stage Contrastive Learning",
        year=2023,
        identifier="arXiv:2308.03281",
        family="contrastive",
        formula=r"\log Z_i - s(q_i,d_i)/\tau,\; Z_i = \sum_j e^{s(q_i,d_j)/\tau} + \sum_{j\ne i} e^{s(q_i,q_j)/\tau}"
        r" + \sum_j e^{s(d_i,q_j)/\tau} + \sum_{j\ne i} e^{s(d_i,d_j)/\tau}",
        purpose="More negatives from the same batch for text embeddings.",
        tasks=("pairs", "retrieval"),
        scores="cosine",
        aliases=("GTE", "improved contrastive loss", "ImprovedContrastive", "GISTEmbedLoss"),
        equals=("GIST: GuidedFilter(JointInfoNCE(document_query=False))",),
    )

    temperature = 0.05
    query_query: bool = flag(True, "compare queries with each other")
    document_query: bool = flag(True, "compare positives with all queries")
    document_document: bool = flag(True, "compare positives with all documents of other queries")

    def _scores(self, scores: Scores | Tensor, targets: Targets | Tensor) -> Scores:
        recipe = as_scores(scores)
        piece = recipe.pieces[0]
        if len(recipe.pieces) != 1 or piece.private or piece.right is None or piece.own_rows is not None:
            raise TypeError("scores: JointInfoNCE expected one comparison such as cosine(queries, documents)")
        if not (isinstance(targets, Targets) and targets.kind == "paired"):
            raise TypeError("targets: JointInfoNCE expected paired()")
        if any(isinstance(f, Tensor) and f.dim() == 2 and f.numel() != 1 for _, f in piece.steps):
            raise TypeError("scores: JointInfoNCE expected factors that are numbers or of shape ()")
        queries, documents = piece.left, piece.right
        rows = queries.shape[0]
        if documents.shape[0] < rows:
            raise ValueError(f"scores: expected at least {rows} documents for {rows} queries, got {documents.shape[0]}")
        own = torch.arange(rows, device=queries.device)
        owner = torch.arange(documents.shape[0], device=queries.device) % max(rows, 1)
        made = [piece]
        if self.query_query:
            made.append(replace(piece, right=queries, own_rows=own, own_columns=own))
        if self.document_query:
            made.append(replace(piece, left=documents[:rows], right=queries))
        if self.document_document:
            made.append(replace(piece, left=documents[:rows], own_rows=own, own_columns=owner))
        return concat(*(Scores([p]) for p in made))

    def _targets(self, targets: Targets | Tensor) -> Targets:
        found = super()._targets(targets)
        return found if found.teacher is None else found.guided(self._scores(found.teacher, found))


__all__ = ["InfoNCE", "JointInfoNCE", "SymmetricInfoNCE"]
