"""How sure a classifier is of each row: larger means more like what it was trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchlosses.engine import budget
from torchlosses.lowering import working_dtype
from torchlosses.scores import Scores, as_scores


def max_logit(scores: Scores | Tensor) -> Tensor:
    """The largest score of each row (...,): the open-set rule of a good closed-set classifier.

    Arguments:
        scores: (..., C), a tensor or a recipe, which is evaluated block by block.

    Vaze et al., "Open-Set Recognition: A Good Closed-Set Classifier Is All You Need", 2022, arXiv:2110.06207.

    >>> import torch
    >>> max_logit(torch.tensor([[2.0, 0.0]]))
    tensor([2.])
    """
    return _rows(scores, lambda s: s.amax(-1))


def max_softmax(scores: Scores | Tensor) -> Tensor:
    """The largest softmax probability of each row (...,).

    Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", 2017, arXiv:1610.02136.

    >>> import torch
    >>> max_softmax(torch.tensor([[2.0, 0.0]]))
    tensor([0.8808])
    """
    return _rows(scores, lambda s: (s.amax(-1) - s.logsumexp(-1)).exp())


def energy(scores: Scores | Tensor, temperature: float = 1.0) -> Tensor:
    """``T logsumexp(s / T)`` of each row (...,): minus the energy, so that larger means known.

    Arguments:
        scores: (..., C), a tensor or a recipe.
        temperature: T > 0.

    Liu et al., "Energy-based Out-of-distribution Detection", 2020, arXiv:2010.03759.

    >>> import torch
    >>> energy(torch.tensor([[2.0, 0.0]]))
    tensor([2.1269])
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number > 0, got {temperature!r}")
    return _rows(scores, lambda s: temperature * (s / temperature).logsumexp(-1))


def _rows(scores: Scores | Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """A number per row, without the whole matrix where the scores are a recipe."""
    recipe = as_scores(scores)
    if not recipe.columns_count:
        raise ValueError(f"scores: expected at least one column, got shape {tuple(recipe.shape)}")
    size = torch.finfo(working_dtype(recipe.dtype)).bits // 8
    step = budget.current().rows(recipe.rows, recipe.columns_count, size, 2.0)
    if step >= recipe.rows:
        return measure(recipe.tensor())
    places = torch.arange(recipe.rows, device=recipe.device).split(step)
    return torch.cat([measure(recipe.at(place).tensor()) for place in places]).reshape(recipe.leading)
