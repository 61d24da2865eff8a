"""The form of scores that a loss is usually fed, and what it can read."""

from __future__ import annotations

from torch import Tensor

from torchlosses.card import Card
from torchlosses.compare.encoder import Model
from torchlosses.loss import Loss, RowLoss
from torchlosses.scores import Scores, cosine, dot, euclidean, linear
from torchlosses.targets import VIEWS

SCALE = 20.0  # of cosines, for losses that expect unbounded scores and own no temperature


def can_read(loss: Loss, kind: str) -> bool:
    return isinstance(loss, RowLoss) and bool(set(VIEWS[kind]) & set(loss.accepts))


def reads(loss: Loss, kind: str, task: str) -> None:
    """Raises TypeError where the loss cannot read this kind of targets."""
    name = type(loss).__name__
    if not isinstance(loss, RowLoss):
        raise TypeError(f"{name} is not a rule of rows, {task} cannot use it")
    if not can_read(loss, kind):
        raise TypeError(f"{name} does not read {kind}() targets, which {task} has")


def head_name(card: Card) -> str:
    return "cosine" if card.scores == "cosine" else "linear"


def form_name(card: Card) -> str:
    return card.scores if card.scores in ("dot", "euclidean") else "cosine"


def head_scores(model: Model, card: Card, z: Tensor) -> Scores:
    assert model.weight is not None
    return cosine(z, model.weight) if head_name(card) == "cosine" else linear(z, model.weight, model.bias)


def head_code(card: Card) -> str:
    bias = "" if head_name(card) == "cosine" else ", bias"
    return f"torchlosses.{head_name(card)}(encoder(x), weight{bias})"


def compared(loss: Loss, card: Card, queries: Tensor, keys: Tensor | None = None) -> Scores:
    """Scores of embeddings in the form that the loss is usually fed."""
    if form_name(card) != "cosine":
        return (dot if form_name(card) == "dot" else euclidean)(queries, keys)
    found = cosine(queries, keys)
    return found if _unscaled(loss, card) else found * SCALE


def compared_code(loss: Loss, card: Card, operands: str) -> str:
    scale = "" if form_name(card) != "cosine" or _unscaled(loss, card) else f" * {SCALE:g}"
    return f"torchlosses.{form_name(card)}({operands}){scale}"


def _unscaled(loss: Loss, card: Card) -> bool:
    return card.scores == "cosine" or (isinstance(loss, RowLoss) and loss.prescale() is not None)


def similarity(card: Card, queries: Tensor, keys: Tensor | None = None) -> Tensor:
    """The same form for the evaluation, where a scale changes nothing."""
    form = {"dot": dot, "euclidean": euclidean}.get(card.scores, cosine)
    return form(queries, queries if keys is None else keys).tensor()
