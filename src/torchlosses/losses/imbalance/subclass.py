"""Contrastive learning and embeddings under imbalance: subclasses of equal size, features without negative parts."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Returned
from torchlosses.hyperparameters import data, flag, real
from torchlosses.loss import RowLoss
from torchlosses.losses.classification.binary import CellLoss, checked_columns
from torchlosses.losses.contrastive.supcon import SupCon
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets


class SubclassBalancedContrastive(RowLoss):
    r"""Subclass-balancing contrastive learning (SBCL): SupCon over subclasses plus ``gamma`` times SupCon over classes.

    The subclass term is multiplied by ``temperature / base_temperature``, the class term is not.

    Arguments:
        temperature, base_temperature: > 0.
        gamma: weight of the class term, >= 0.
        rank: the class term has a temperature of its own for each class, and leaves out the row's own subclass, in
            numerator and denominator, but for other views of the same example.

    Takes a self-comparison ``cosine(x)`` and ``same_label(y)`` with ``.given(subclass=c)``, (B,) integers; with ``rank``
    also ``example=i``, (B,) equal for the views of one example, and ``class_temperature=t``, (B,) of the row's class
    (:meth:`temperatures`; without it ``temperature``). A term without right columns is 0.

    >>> import torch, torchlosses as tl
    >>> targets = tl.same_label(torch.tensor([0, 0, 1])).given(subclass=torch.tensor([0, 0, 1]))
    >>> tl.SubclassBalancedContrastive(temperature=1.0, base_temperature=1.0)(tl.cosine(torch.eye(3)), targets)
    tensor(0.5776)
    """

    card: ClassVar[Card] = Card(
        title="Subclass-balancing Contrastive Learning for Long-tailed Recognition",
        year=2023,
        identifier="arXiv:2306.15925",
        family="imbalance",
        formula=r"\tfrac{\tau}{\tau_0}\,\mathrm{SupCon}_{\text{subclass}}(s/\tau)+\gamma\,\mathrm{SupCon}_{\text{class}}(s/\tau_2)",
        purpose="Embeddings of a long-tailed training set in which head classes do not crowd out the tail.",
        scores="cosine",
        aliases=("SBCL", "subclass-balancing contrastive"),
        equals=("SupCon at gamma=0 with subclasses as labels",),
        note="Subclasses come from balanced k-means within each class, n_c // max(min n, 10) of them, renewed now and then.",
    )
    accepts = ("positive",)

    temperature: float = real(0.1, "divides the scores", above=0, search=(0.02, 1.0, "log"))
    base_temperature: float = real(0.07, "the subclass term is multiplied by temperature over this", above=0)
    gamma: float = real(0.25, "weight of the class term", low=0, search=(0.05, 1.0))
    rank: bool = flag(False, "a temperature for each class, without the row's own subclass")

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        if batch.rows != batch.columns:
            raise ValueError(f"scores: expected a self-comparison such as cosine(x), got {batch.rows} x {batch.columns}")
        return {f"column_{name}": fields[name][None, :] for name in ("subclass", "example") if name in fields}

    def rule(
        self,
        scores: Tensor,
        targets: Block,
        *,
        subclass: Tensor,
        column_subclass: Tensor | None = None,
        example: Tensor | None = None,
        column_example: Tensor | None = None,
        class_temperature: Tensor | None = None,
    ) -> Returned:
        assert column_subclass is not None  # prepare makes it
        same = targets.positive & (subclass[:, None] == column_subclass)
        factor = self.temperature / self.base_temperature
        value = factor * self._supcon(scores / self.temperature, same, targets.valid, targets)
        own, pool, tau = targets.positive, targets.valid, scores.new_full((1, 1), self.temperature)
        if self.rank:
            if example is None or column_example is None:
                raise TypeError(
                    "example: needed with rank=True, one entry per row; attach it with targets.given(example=tensor)"
                )
            left_out = same & (example[:, None] != column_example)
            own, pool = own & ~left_out, pool & ~left_out
            if class_temperature is not None:
                tau = class_temperature.detach().to(scores.dtype)[:, None]
        return value + self.gamma * self._supcon(scores / tau, own, pool, targets)

    @staticmethod
    def _supcon(scores: Tensor, own: Tensor, pool: Tensor, targets: Block) -> Tensor:
        """Mean over ``own`` of the log-sum-exp over ``pool`` minus the score."""
        lse = targets.logsumexp(scores, pool)
        some = own.any(-1)
        return torch.where(some, torch.where(some, lse, 0.0) - targets.mean(scores, own), 0.0)

    @staticmethod
    @torch.no_grad()
    def temperatures(features: Tensor, labels: Tensor, subclass: Tensor, temperature: float = 0.1) -> Tensor:
        """Temperature (C,) of each class: wider classes get higher ones, those with a single subclass ``temperature``.

        ``temperature phi_c / mean phi``, phi_c the mean distance of the class's features (N, D) to their centre over
        ``log(n_c + 10)``, clipped to the 20th and 80th percentile.
        """
        found = []
        for c in range(int(labels.max()) + 1):
            x = features[labels == c]
            spread = (x - x.mean(0)).norm(dim=1).mean() if len(x) else features.new_zeros(())
            found.append(spread / torch.log(torch.tensor(len(x) + 10.0)))
        phi = torch.stack(found)
        phi = phi.clamp(phi.quantile(0.2), phi.quantile(0.8))
        single = torch.tensor([subclass[labels == c].unique().numel() < 2 for c in range(len(phi))], device=phi.device)
        return torch.where(single, temperature, temperature * phi / phi.mean())


class ReLUSupCon(SupCon):
    r"""SupCon on features without their negative parts: classes of any size end up orthogonal, symmetric neural collapse.

    The positive part of the features of ``cosine(x)`` is taken before they are normalized.

    Arguments:
        temperature, base_temperature, form: as :class:`SupCon`.

    The paper also appends one fixed example of each class to every batch, so that all classes meet.

    >>> import torch, torchlosses as tl
    >>> x = torch.tensor([[1.0, -1.0], [1.0, -2.0], [-1.0, 1.0]])
    >>> tl.ReLUSupCon(temperature=1.0)(tl.cosine(x), tl.same_label(torch.tensor([0, 0, 1])))
    tensor(0.3133)
    """

    card: ClassVar[Card] = Card(
        title="Symmetric Neural-Collapse Representations with Supervised Contrastive Loss: The Impact of ReLU and Batching",
        year=2023,
        identifier="arXiv:2306.07960",
        family="imbalance",
        formula=r"\mathrm{SupCon}(\cos([f]_+,[f]_+)/\tau)",
        purpose="Embeddings of imbalanced classes that stay symmetric.",
        scores="cosine",
        aliases=("SCL with ReLU", "SupCon ReLU", "BatchBinding", "orthogonal_frame_distance"),
        over="rows with a right column",
    )
    over = "valid"

    def _scores(self, scores: Scores | Tensor, targets: Targets | Tensor) -> Scores:
        recipe = as_scores(scores)
        if any(piece.right is None for piece in recipe.pieces):
            raise TypeError("scores: ReLUSupCon expected a comparison of features such as cosine(x), got a plain matrix")
        made = []
        for piece in recipe.pieces:
            assert piece.right is not None
            made.append(replace(piece, left=piece.left.relu(), right=piece.right.relu()))
        return Scores(made, recipe.leading)


class ClassSpecificHingeEmbedding(CellLoss):
    r"""Class-specific embedding loss: ``W_c [margin_c - s]+`` in right cells, ``W_c [margin_c + s]+`` in wrong ones.

    Margins ``margin / n_c^(1/4)``, weights ``W_c = n_c^-gamma / sum_k n_k^-gamma``.

    Arguments:
        class_counts: (C,) positive class weights such as counts, or None for one margin and no weights.
        margin: >= 0.
        gamma: strength of the weights, >= 0.
        columns: 'mean' or 'sum' over the columns of a row.

    >>> import torch, torchlosses as tl
    >>> tl.ClassSpecificHingeEmbedding(margin=0.2)(torch.tensor([[0.1, -0.5]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.0500)
    """

    card: ClassVar[Card] = Card(
        title="LMPT: Prompt Tuning with Class-Specific Embedding Loss for Long-Tailed Multi-Label Visual Recognition",
        year=2023,
        identifier="arXiv:2305.04536",
        family="imbalance",
        formula=r"\tfrac1C\sum_c W_c\left[\tfrac{m}{n_c^{1/4}}-(2y_c-1)s_c\right]_+",
        purpose="Class prompts and image captions in one space, with wider margins for rare classes.",
        scores="cosine",
        aliases=("CSEL", "CSE loss", "class-specific embedding loss", "LMPT"),
        detached="margins and weights",
        note="The released code passes distances, summed over tokens, in the place of the scores: it pushes distances up "
        "where y = 1, opposite to the usual hinge embedding. Here scores are similarities.",
    )

    class_counts: Tensor | None = data("positive class weights such as counts, (C,)", default=None)
    margin: float = real(0.2, "before the division by the class weight", low=0, search=(0.05, 1.0, "log"))
    gamma: float = real(2.0, "strength of the weights", low=0, search=(0.0, 2.0))

    def check(self, recipe: Scores, targets: Targets) -> None:
        super().check(recipe, targets)
        checked_columns(self.class_counts, recipe, "class_counts")

    def parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        margin: float | Tensor = self.margin
        if self.class_counts is not None:
            margin = self.margin / self.class_counts.to(scores.device, scores.dtype) ** 0.25
        return (margin - scores).relu(), (margin + scores).relu()

    def weights(self, targets: Block, **fields: Tensor) -> Tensor | None:
        if self.class_counts is None:
            return None
        return (-self.gamma * self.class_counts.to(targets.device, targets.dtype).log()).softmax(0)[None, :]

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The scores themselves (..., L)."""
        return as_scores(scores).tensor()


__all__ = ["ClassSpecificHingeEmbedding", "ReLUSupCon", "SubclassBalancedContrastive"]
