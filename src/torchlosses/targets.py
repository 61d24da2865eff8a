"""Targets: what should be high in each row.

A :class:`Targets` holds tensors with one entry per row (or shared by all rows) and says which *views* of itself a rule may
ask for. The engine slices the per-row tensors and hands a rule a :class:`torchlosses.engine.block.Block`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from torchlosses.lowering import can_branch
from torchlosses.scores import Scores, as_scores

# What a kind can be read as. classes -> multi_label -> graded -> soft; graded -> multi_label above 0.
VIEWS: dict[str, tuple[str, ...]] = {
    "classes": ("index", "positive", "grade", "probability"),
    "paired": ("index", "positive", "grade", "probability"),
    "multi_label": ("positive", "grade", "probability"),
    "multi_index": ("positive", "grade", "probability"),
    "same_label": ("positive", "grade", "probability"),
    "graded": ("grade", "positive", "probability"),
    "preferred": ("index", "grade", "positive", "probability"),
    "soft": ("probability",),
    "desirable": ("desirable",),
    "teacher": ("scores",),
}


@dataclass(frozen=True)
class Targets:
    """What should be high, one kind of it; made by the functions of this module.

    ``rows`` are tensors whose first dimension is the rows, ``shared`` are whole tensors, ``fields`` what was attached
    with :meth:`given`.
    """

    kind: str
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    teacher: Scores | None = None

    @property
    def views(self) -> tuple[str, ...]:
        return VIEWS[self.kind]

    def given(self, **tensors: Tensor) -> Targets:
        """Attaches named per-row tensors that a rule asks for (ids, norms, beta, weight, ...); () or one entry per row.

        ``weight`` is the weight of each row in the reduction, for every loss.

        >>> import torch, torchlosses as tl
        >>> tl.classes(torch.tensor([0, 1])).given(weight=torch.tensor([1.0, 3.0])).fields["weight"]
        tensor([1., 3.])
        """
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name}: expected a tensor with one entry per row, got {type(tensor).__name__}")
        return replace(self, fields={**self.fields, **tensors})

    def guided(self, scores: Scores | Tensor) -> Targets:
        """Attaches a guide: a second opinion of the same shape as the scores, detached, that a miner reads.

        >>> import torch, torchlosses as tl
        >>> tl.paired().guided(tl.cosine(torch.eye(3), torch.eye(3))).teacher
        Scores(cosine (3, 3))
        """
        return replace(self, teacher=as_scores(scores))

    def at(self, index: Tensor) -> Targets:
        """The rows named by an index, as :meth:`Scores.at`."""
        if self.kind == "paired":
            place = index.nonzero().squeeze(1) if index.dtype == torch.bool else index
            if can_branch(place) and bool((place < 0).any()):
                raise ValueError(f"index: expected row numbers >= 0 of paired(), got {int(place.min())}")
            return replace(classes(place), fields=self._fields_at(index), teacher=self._teacher_at(index))
        pick = {name: t[index] for name, t in self.rows.items()}
        return replace(self, rows=pick, fields=self._fields_at(index), teacher=self._teacher_at(index))

    def _fields_at(self, index: Tensor) -> dict[str, Tensor]:
        """The attached fields of some rows."""
        return {name: t[index] if t.dim() else t for name, t in self.fields.items()}

    def _teacher_at(self, index: Tensor) -> Scores | None:
        return None if self.teacher is None else self.teacher.at(index)

    @property
    def T(self) -> Targets:
        """The same relation with columns as rows; for kinds that define one."""
        if self.teacher is not None and self.kind in ("paired", "same_label", "multi_label", "graded"):
            return replace(replace(self, teacher=None).T, teacher=self.teacher.T)
        if self.kind == "paired":
            return replace(self, fields={name: t.mT if t.dim() == 2 else t for name, t in self.fields.items()})
        if self.kind == "same_label":
            keys = self.shared.get("keys", self.rows["labels"])
            return replace(self, rows={"labels": keys}, shared={"keys": self.rows["labels"]}, fields={})
        matrix = {"multi_label": "hot", "graded": "relevance"}.get(self.kind)
        if matrix is None:
            raise TypeError(f"targets: {self.kind}() has no transpose; expected paired, same_label, multi_label or graded")
        return replace(self, rows={name: t.T for name, t in self.rows.items()}, fields={})

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={tuple(t.shape)}" for name, t in {**self.rows, **self.shared, **self.fields}.items())
        return f"{self.kind}({shapes})"


def _tensor(name: str, value: object, *, integer: bool = False) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if integer and (value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool):
        raise TypeError(f"{name}: expected an integer tensor, got {value.dtype}")
    return value


def _matrix(name: str, value: object) -> Tensor:
    value = _tensor(name, value)
    if value.dim() < 2:
        raise ValueError(f"{name}: expected shape (rows, alternatives), got {tuple(value.shape)}")
    return value.flatten(0, -2)


def classes(index: Tensor, weight: Tensor | None = None, ignore_index: int = -100) -> Targets:
    """One right column per row.

    Arguments:
        index: integers (...,) in [0, L); rows equal to ``ignore_index`` never count.
        weight: (L,) weight of each class; a row counts as much as its class, as in torch.nn.CrossEntropyLoss.

    >>> import torch, torchlosses as tl
    >>> tl.CrossEntropy()(torch.zeros(2, 4), tl.classes(torch.tensor([1, -100])))
    tensor(1.3863)
    """
    index = _tensor("index", index, integer=True)
    shared = {}
    if weight is not None:
        weight = _tensor("weight", weight)
        if weight.dim() != 1:
            raise ValueError(f"weight: expected shape (L,), got {tuple(weight.shape)}")
        shared["class_weight"] = weight.detach()
    return Targets("classes", {"index": index.reshape(-1).long()}, shared, options={"ignore_index": ignore_index})


def paired() -> Targets:
    """Row i belongs to column i: in-batch pairs.

    >>> import torch, torchlosses as tl
    >>> tl.InfoNCE()(tl.cosine(torch.eye(2), torch.eye(2)), tl.paired()) < 1e-6
    tensor(True)
    """
    return Targets("paired")


def multi_label(hot: Tensor, mask: Tensor | None = None) -> Targets:
    """Any number of right columns per row: ``hot`` (..., L) boolean or 0/1; ``mask`` True = the cell exists."""
    rows = {"hot": _matrix("hot", hot) > 0}
    return Targets("multi_label", _with_mask(rows, mask, rows["hot"].shape))


def multi_index(index: Tensor, padding: int = -1) -> Targets:
    """Any number of right columns per row, by their indices: for very many columns, where a matrix of labels is too large.

    Arguments:
        index: integers (..., K) in [0, L), shorter rows filled up with ``padding``; a column named twice counts once.
        padding: marks the places that name no column.

    >>> import torch, torchlosses as tl
    >>> tl.BinaryCrossEntropy()(torch.zeros(2, 100), tl.multi_index(torch.tensor([[3, 99], [7, -1]])))
    tensor(0.6931)
    """
    index = _matrix("index", _tensor("index", index, integer=True)).long()
    index = torch.where(index == padding, -1, index).sort(-1).values
    again = torch.zeros_like(index, dtype=torch.bool)
    again[:, 1:] = index[:, 1:] == index[:, :-1]
    return Targets("multi_index", {"indices": index.masked_fill(again, -1)})


def soft(probabilities: Tensor, mask: Tensor | None = None) -> Targets:
    """A weight on every column, (..., L), usually a distribution; gradients reach it if it requires them."""
    rows = {"probability": _matrix("probabilities", probabilities)}
    if not rows["probability"].dtype.is_floating_point:
        raise TypeError(f"probabilities: expected a floating-point tensor, got {probabilities.dtype}")
    return Targets("soft", _with_mask(rows, mask, rows["probability"].shape))


def same_label(labels: Tensor, key_labels: Tensor | None = None) -> Targets:
    """Right columns are those whose label equals the row's: ``labels`` (B,), ``key_labels`` (L,) or the same ones.

    >>> import torch, torchlosses as tl
    >>> y = torch.tensor([0, 0, 1])
    >>> tl.SupCon()(tl.cosine(torch.eye(3)), tl.same_label(y)).shape
    torch.Size([])
    """
    labels = _tensor("labels", labels).reshape(-1)
    keys = labels if key_labels is None else _tensor("key_labels", key_labels).reshape(-1)
    return Targets("same_label", {"labels": labels}, {"keys": keys})


def graded(relevance: Tensor, mask: Tensor | None = None) -> Targets:
    """A grade for every item of a row's list, (..., L), larger is better; ``mask`` True = the item exists."""
    rows = {"relevance": _matrix("relevance", relevance)}
    return Targets("graded", _with_mask(rows, mask, rows["relevance"].shape))


def preferred() -> Targets:
    """The first column is preferred to the others: grades [1, 0, ...]."""
    return Targets("preferred")


def desirable(label: Tensor) -> Targets:
    """Rows of one response each: ``label`` (B,) True where the response is desirable (KTO)."""
    label = _tensor("label", label).reshape(-1)
    return Targets("desirable", {"label": label > 0 if label.dtype != torch.bool else label})


def teacher(scores: Scores | Tensor, temperature: float = 1.0, where: Tensor | None = None) -> Targets:
    """The row's scores by a teacher, always detached: a tensor (..., L) or a recipe with the student's shape.

    Arguments:
        temperature: divides the teacher's scores, > 0.
        where: (..., L) True = the cell exists.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number > 0, got {temperature!r}")
    recipe = as_scores(scores)
    if temperature != 1.0:
        recipe = recipe.times(1.0 / temperature)
    rows: dict[str, Tensor] = {}
    return Targets("teacher", _with_mask(rows, where, torch.Size((recipe.rows, recipe.columns_count))), teacher=recipe)


def _with_mask(rows: dict[str, Tensor], mask: Tensor | None, shape: torch.Size) -> dict[str, Tensor]:
    if mask is not None:
        flat = _matrix("mask", mask)
        if flat.dtype != torch.bool:
            raise TypeError(f"mask: expected a boolean tensor (True = the cell exists), got {mask.dtype}")
        if flat.shape != shape:
            raise ValueError(f"mask: expected shape {tuple(shape)}, got {tuple(flat.shape)}")
        rows["mask"] = flat
    return rows
