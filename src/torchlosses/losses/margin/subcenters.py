"""Several centres per class: a class scores as its best centre does."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome
from torchlosses.hyperparameters import choice, integer, real
from torchlosses.loss import RowLoss, Wrapper
from torchlosses.losses.margin.angular import ArcFace
from torchlosses.losses.margin.transforms import GUARDS
from torchlosses.scores import Scores
from torchlosses.targets import Targets


class PooledBatch(Batch):
    """A call whose columns are classes, each scored by its best centre."""

    def __init__(self, recipe: Scores, factor: float | Tensor | None, targets: Targets, centers: int) -> None:
        super().__init__(recipe, factor, targets)
        self.centers, self.columns = centers, self.columns // centers

    def right(self) -> Tensor:
        return self.targets.target(self.scores())

    @torch.no_grad()
    def scores(self) -> Tensor:
        recipe = self._recipe.times(self._factor)
        return recipe.tensor().reshape(self.rows, self.columns, self.centers).amax(-1).to(self.dtype)


class SubCenters(Wrapper):
    r"""Any loss with class targets on scores with several columns per class: a class scores as its best column does.

    Columns ``cK .. cK + K - 1`` belong to class c; targets name classes. The first of equal columns gets the gradient.

    Arguments:
        loss: a row loss whose targets are classes.
        centers: columns per class (K), >= 1.

    >>> import torch, torchlosses as tl
    >>> loss = tl.SubCenters(tl.CrossEntropy(), centers=2)
    >>> loss(torch.tensor([[1.0, 0.0, -2.0, 1.0]]), torch.tensor([0]))
    tensor(0.6931)
    """

    keeps_columns = False

    centers: int = integer(3, "columns per class", low=1, search=(1, 10))

    def __init__(self, loss: RowLoss, centers: int = 3, **hyperparameters: Any) -> None:
        super().__init__(loss, centers=centers, **hyperparameters)

    def check(self, recipe: Scores, targets: Targets) -> None:
        if targets.kind != "classes":
            raise TypeError(f"targets: {type(self).__name__} expected classes(), got {targets.kind}()")
        columns, rest = divmod(recipe.columns_count, self.centers)
        if rest:
            raise ValueError(f"scores: expected a multiple of {self.centers} columns, got {recipe.columns_count}")
        RowLoss.check(self, recipe, Targets(targets.kind, targets.rows, options=targets.options))
        self._check_index(targets.rows["index"], targets.options["ignore_index"], columns)
        weight = targets.shared.get("class_weight")
        if weight is not None and weight.shape[0] != columns:
            raise ValueError(f"weight: expected shape ({columns},), got {tuple(weight.shape)}")

    def _batch(self, recipe: Scores, targets: Targets) -> Batch:
        return PooledBatch(recipe, self.prescale(), targets, self.centers)

    def _evaluate(self, scores: Tensor, targets: Block, fields: dict[str, Tensor]) -> Outcome:
        rows, columns = targets.size[0], targets.size[1] // self.centers
        exists = None if targets.all_valid else targets.valid
        shown = scores.detach() if exists is None else scores.detach().masked_fill(~exists, -torch.inf)
        best = shown.reshape(rows, columns, self.centers).argmax(-1, keepdim=True)
        pooled = scores.reshape(rows, columns, self.centers).gather(-1, best).squeeze(-1)
        some = None if exists is None else exists.reshape(rows, columns, self.centers).any(-1)
        by_class = targets.over(columns, some)
        targets.filled = by_class.filled  # what exists is a matter of classes, not of centres
        return self.loss._evaluate(pooled, by_class, fields)

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """The softmax of the classes' scores (..., C), no margin."""
        shown = self._scores(scores, Targets("classes"))
        z = shown.times(self.prescale()).tensor()
        best: Tensor = z.unflatten(-1, (-1, self.centers)).amax(-1)
        return best.softmax(-1)


class SubCenterArcFace(SubCenters):
    r"""Sub-center ArcFace: several centres per class, so that noisy examples can gather elsewhere.

    Arguments:
        centers: columns per class (K), >= 1; columns ``cK .. cK + K - 1`` belong to class c.
        margin, scale, guard: as :class:`ArcFace`.

    >>> import torch, torchlosses as tl
    >>> loss = tl.SubCenterArcFace(centers=2, scale=10.0)
    >>> loss(torch.tensor([[0.8, 0.2, 0.1, -0.4]]), torch.tensor([0]))
    tensor(0.0422)
    """

    card: ClassVar[Card] = Card(
        title="Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web Faces",
        year=2020,
        identifier="doi:10.1007/978-3-030-58621-8_43",
        family="margin",
        formula=r"\mathrm{ArcFace}\left(\max_k\cos\theta_{jk}\right)",
        purpose="Face recognition and retrieval from noisily labelled images.",
        scores="cosine",
        aliases=("SubCenterArcFaceLoss", "sub-center ArcFace"),
        equals=("SubCenters(ArcFace())",),
    )

    margin: float = real(0.5, "angle in radians", low=0, high=3.1415926, search=(0.1, 0.7))
    scale: float = real(64.0, "factor on all cosines", above=0, search=(8.0, 64.0, "log"))
    guard: str = choice("linear", "what happens beyond pi - margin", options=GUARDS)

    def __init__(self, **hyperparameters: Any) -> None:
        own = {n: hyperparameters.get(n, self._hypers[n].default) for n in ("margin", "scale", "guard")}
        super().__init__(ArcFace(**own), **hyperparameters)


__all__ = ["SubCenterArcFace", "SubCenters"]
