"""A share of the classes at every call: what makes a head of a million classes affordable."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.draws import Draws
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome
from torchlosses.engine.problem import Problem
from torchlosses.hyperparameters import choice, data, flag, integer, real
from torchlosses.loss import RowLoss, Wrapper
from torchlosses.losses.classification.prior import known_counts, working
from torchlosses.losses.classification.softmax import CrossEntropy
from torchlosses.lowering import can_branch
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets


class ClassSampling(Draws, Wrapper):
    r"""Any loss with class targets on the batch's classes and a random share of the others, drawn anew at every call.

    ``floor(rate * C)`` of the C columns take part: all that are somebody's right column, and uniformly drawn others (the
    former alone where they are more). Nothing corrects for the draw; ``rate=1`` is the loss itself. Columns, targets and
    class weights are renamed, so the inner loss sees a smaller matrix; what it knows of each class (class counts, biases
    per class) it cannot keep. Predictions use all classes.

    Arguments:
        loss: a row loss whose targets are classes, such as ``ArcFace()``.
        rate: share of the classes, in (0, 1].
        gradients: of the columns' operand, W in ``cosine(x, W)`` or ``linear(x, W, b)``. 'dense' is as large as W, zero in
            rows that took no part: for a million classes it costs more than the loss. 'sparse' is a sparse tensor of the
            rows that took part, for SGD, SparseAdam or Adagrad; W must then be a leaf. A bias has a dense gradient.
        seed: of the generator, whose state is in ``state_dict``; None takes torch's default seed.

    A set of classes of one's own: ``loss(scores, targets, sampled=index)`` with distinct classes (M,), every right one
    among them. Wrap it last: ``ClassSampling(HardNegatives(ArcFace()))``.

    Source: Partial FC, Killing Two Birds with One Stone (2022, arXiv:2203.15565) and Partial FC: Training 10 Million
    Identities on a Single Machine (2021, arXiv:2010.05222), rate 0.1.

    >>> import torch, torchlosses as tl
    >>> loss = tl.ClassSampling(tl.CrossEntropy(), rate=0.5, seed=0)
    >>> loss(torch.zeros(1, 100), torch.tensor([3]))  # log 50
    tensor(3.9120)
    """

    card: ClassVar[Card] = Card(
        title="Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC",
        year=2022,
        identifier="arXiv:2203.15565",
        family="margin",
        formula=r"\ell(s_{iS}, y_i),\quad \{y_1,\dots,y_B\}\subseteq S,\ |S|=\lfloor rC\rfloor",
        purpose="Heads of a million classes, such as identities, at a tenth of their cost.",
        aliases=("Partial FC", "PFC", "class sampling"),
        cost="O(B rC)",
        over="as the loss inside",
        equals=("the loss itself at rate=1",),
    )

    rate: float = real(0.1, "share of the classes", above=0, high=1, search=(0.05, 0.5, "log"))
    gradients: str = choice("dense", "of the columns' operand", options=("dense", "sparse"))

    def __init__(self, loss: RowLoss, rate: float = 0.1, **hyperparameters: Any) -> None:
        super().__init__(loss, rate=rate, **hyperparameters)
        self._needs_columns()

    def draw(self, index: Tensor, counted: Tensor, columns: int) -> Tensor:
        """The classes of this call (M,), ascending: those in ``index`` (of the counted rows) and others."""
        size = min(max(int(self.rate * columns + 1e-9), 1), columns)  # 0.29 * 100 is a little less than 29
        keys = self.drawn(lambda g: torch.rand(columns + 1, generator=g), index.device)
        keys[torch.where(counted, index, columns)] = 2.0  # above every draw; ignored rows fall off the end
        if index.shape[0] > size:
            size = max(size, int((keys[:-1] == 2.0).sum()))
        return keys[:-1].topk(size).indices.sort().values

    @staticmethod
    def _sampled(given: Tensor, index: Tensor, counted: Tensor, columns: int) -> Tensor:
        """A set of classes that the caller chose, ascending."""
        if given.dim() != 1 or given.dtype.is_floating_point or given.dtype == torch.bool:
            raise TypeError(f"sampled: expected a 1-d tensor of classes, got {given.dtype} {tuple(given.shape)}")
        ordered = given.to(index.device).sort().values
        if can_branch(ordered):
            if ordered.shape[0] and (int(ordered[0]) < 0 or int(ordered[-1]) >= columns):
                raise ValueError(f"sampled: expected classes in [0, {columns}), got {int(ordered[0])} to {int(ordered[-1])}")
            if bool((ordered[1:] == ordered[:-1]).any()):
                raise ValueError("sampled: expected distinct classes, got one twice")
            missing = index[counted & ~torch.isin(index, ordered)]
            if missing.shape[0]:
                raise ValueError(f"sampled: expected every right class among them, got none of {int(missing[0])}")
        return ordered

    def _problem(
        self, scores: Scores | Tensor, targets: Targets | Tensor, given: dict[str, Tensor]
    ) -> tuple[Problem, torch.Size, dict[str, Tensor]]:
        recipe = as_scores(scores)
        wanted = self._targets(targets).given(**given)
        if wanted.kind != "classes":
            raise TypeError(f"targets: ClassSampling expected classes(), got {wanted.kind}()")
        fields = dict(wanted.fields)
        chosen = fields.pop("sampled", None)
        wanted = replace(wanted, fields=fields)
        RowLoss.check(self, recipe, wanted)
        if chosen is not None or self.rate < 1 or self.gradients == "sparse":
            recipe, wanted = self._reduced(recipe, wanted, chosen)
        problem, leading, used = self.loss._problem(recipe, wanted, {})
        return replace(problem, over=self.over), leading, used

    def _reduced(self, recipe: Scores, wanted: Targets, chosen: Tensor | None) -> tuple[Scores, Targets]:
        """Scores and targets over the classes that take part."""
        index, ignore = wanted.rows["index"], wanted.options["ignore_index"]
        counted = index != ignore
        columns = recipe.columns_count
        kept = self.draw(index, counted, columns) if chosen is None else self._sampled(chosen, index, counted, columns)
        place = torch.searchsorted(kept, index.clamp(0, columns - 1)).clamp(max=kept.shape[0] - 1)
        rows = {**wanted.rows, "index": torch.where(counted, place, -100)}
        wanted = replace(
            wanted,
            rows=rows,
            shared={name: t[kept] if name == "class_weight" else t for name, t in wanted.shared.items()},
            fields={n: t[:, kept] if self._per_column(n, t, recipe) else t for n, t in wanted.fields.items()},
            options={**wanted.options, "ignore_index": -100},
            teacher=None if wanted.teacher is None else wanted.teacher.columns(kept),
        )
        return recipe.columns(kept, sparse=self.gradients == "sparse"), wanted

    @staticmethod
    def _per_column(name: str, tensor: Tensor, recipe: Scores) -> bool:
        """Whether an attached tensor has one entry per row and column."""
        if name == "weight" or tensor.dim() != 2 or tensor.shape[1] != recipe.columns_count:
            return False
        return tensor.shape != recipe.leading or tensor.shape[0] == recipe.rows

    def _evaluate(self, scores: Tensor, targets: Block, fields: dict[str, Tensor]) -> Outcome:
        raise TypeError("loss: ClassSampling goes around other wrappers, such as ClassSampling(HardNegatives(ArcFace()))")


class SampledSoftmax(Draws, CrossEntropy):
    r"""Cross-entropy of the right class against drawn ones, corrected for how often each is drawn (logQ).

    Cross-entropy of ``s_y - log n_y`` against ``s_j - log n_j`` for every draw j, ``n_j = samples q_j`` the number of times
    that class j is expected. Draws are with replacement and shared by all rows. Predictions use all classes as they are.

    Arguments:
        samples: number of draws per call, >= 1.
        proposal: q: 'uniform'; 'log_uniform' (``log((j+2)/(j+1))``, for classes sorted by falling frequency); 'counts'.
        class_counts: (C,) for 'counts', >= 0; a class without any counts as one example.
        remove_hits: a draw that is the row's right class does not count as a wrong one.
        seed: of the generator, whose state is in ``state_dict``; None takes torch's default seed.

    Draws of one's own: ``loss(scores, targets, sampled=index)`` (M,), with ``log_expected=log_n`` (C,) where q is another.

    >>> import torch, torchlosses as tl
    >>> loss = tl.SampledSoftmax(samples=5, seed=0)
    >>> loss(torch.zeros(1, 100), torch.tensor([3]))  # log(1 + 5), since n is the same for all
    tensor(1.7918)
    """

    card: ClassVar[Card] = Card(
        title="On Using Very Large Target Vocabulary for Neural Machine Translation",
        year=2015,
        identifier="arXiv:1412.2007",
        family="classification",
        formula=r"-\log\frac{e^{s_y}/n_y}{e^{s_y}/n_y+\sum_{j\in D\setminus y}e^{s_j}/n_j},\quad n_j=|D|\,q_j",
        purpose="Softmax heads of very many classes, from a few drawn ones.",
        aliases=("sampled softmax", "sampled_softmax_loss", "logQ correction"),
        cost="O(BM), M draws",
        equals=("CrossEntropy where every class is drawn once and q is uniform",),
    )

    samples: int = integer(1000, "draws per call", low=1, search=(64, 8192))
    proposal: str = choice("uniform", "how classes are drawn", options=("uniform", "log_uniform", "counts"))
    class_counts: Tensor | None = data("training examples of each class, (C,)", default=None)
    remove_hits: bool = flag(True, "a row's right class is no wrong one")

    def setup(self) -> None:
        if self.proposal == "counts" and self.class_counts is None:
            raise ValueError("class_counts: needed with proposal='counts', shape (C,), got None")

    def shares(self, recipe: Scores) -> Tensor:
        """q (C,)."""
        columns = recipe.columns_count
        if self.class_counts is not None and self.proposal == "counts":
            counts = known_counts(self.class_counts, recipe)
            return counts / counts.sum()
        place = torch.arange(columns, device=recipe.device, dtype=working(recipe))
        if self.proposal == "uniform":
            return torch.full_like(place, 1 / columns)
        return torch.log1p(1 / (place + 1)) / math.log(columns + 1)

    def _problem(
        self, scores: Scores | Tensor, targets: Targets | Tensor, given: dict[str, Tensor]
    ) -> tuple[Problem, torch.Size, dict[str, Tensor]]:
        recipe = as_scores(scores)
        wanted = self._targets(targets).given(**given)
        if wanted.kind != "classes" or "class_weight" in wanted.shared:
            found = f"{wanted.kind}()" if wanted.kind != "classes" else "class weights"
            raise TypeError(f"targets: SampledSoftmax expected classes() without class weights, got {found}")
        fields = dict(wanted.fields)
        sampled, expected = fields.pop("sampled", None), fields.pop("log_expected", None)
        RowLoss.check(self, recipe, wanted)
        counted = wanted.rows["index"] != wanted.options["ignore_index"]
        index = torch.where(counted, wanted.rows["index"], 0)
        share = self.shares(recipe)
        if sampled is None:
            places = self.drawn(lambda g: torch.rand(self.samples, generator=g, dtype=torch.float64))
            total = share.double().cumsum(0)
            sampled = torch.searchsorted(total, places.to(total) * total[-1]).clamp(max=recipe.columns_count - 1)
        if expected is None:
            expected = (share * sampled.shape[0]).log()
        own = recipe.pick(index).plus(-expected[index][:, None])
        others = recipe.columns(sampled).plus(-expected[sampled][None, :])
        if self.remove_hits:
            others = Scores([replace(others.pieces[0], own_rows=index, own_columns=sampled)])
        rows = {**wanted.rows, "index": torch.where(counted, 0, -100)}
        wanted = replace(wanted, rows=rows, fields=fields, options={**wanted.options, "ignore_index": -100})
        return super()._problem(Scores([*own.pieces, *others.pieces], recipe.leading), wanted, {})


__all__ = ["ClassSampling", "SampledSoftmax"]
