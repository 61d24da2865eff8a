"""The picture of ``show --plot``: a loss and its gradient against one score of a row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchlosses.catalog import Entry
from torchlosses.compare.refusal import Refusal
from torchlosses.loss import Loss, RowLoss
from torchlosses.targets import VIEWS, Targets, classes, desirable, graded, multi_label, soft, teacher

POINTS = 241


@dataclass(frozen=True)
class Curve:
    """Value and derivative where one score moves and the others stand still."""

    moving: str
    score: list[float]
    value: list[float]
    gradient: list[float]


def curves(entry: Entry) -> list[Curve]:
    """A right alternative's score moving with one wrong alternative at 0, then the other way round."""
    reach = 1.0 if entry.card.scores == "cosine" else 6.0
    grid = reach * (torch.arange(POINTS, dtype=torch.float64) / (POINTS // 2) - 1)
    try:
        loss = entry.loss(**_data(entry)).eval().to(torch.float64)
        if isinstance(loss, RowLoss):
            return [_rows(loss, grid, column) for column in range(1 if _single(loss) else 2)]
        if "none" not in entry.card.scores:
            raise TypeError("it is no rule of single rows")
        return [_pointwise(loss, grid)]
    except (TypeError, ValueError, RuntimeError) as problem:
        raise Refusal(f"show --plot: {entry.name} cannot be drawn against one score: {problem}") from None


def draw(entry: Entry, path: Path) -> None:
    """Writes the picture as one HTML file that needs no network."""
    import plotly.graph_objects as graph
    from plotly.subplots import make_subplots

    found = curves(entry)
    figure: Any = make_subplots(rows=2, cols=1, shared_xaxes=True, subplot_titles=("loss", "gradient"))
    for curve, color in zip(found, ("#1f5fbf", "#c2452d"), strict=False):
        for row, values in enumerate((curve.value, curve.gradient), 1):
            figure.add_trace(
                graph.Scatter(
                    x=curve.score,
                    y=values,
                    name=curve.moving,
                    legendgroup=curve.moving,
                    showlegend=row == 1,
                    line={"color": color},
                ),
                row=row,
                col=1,
            )
    figure.update_layout(title=f"{entry.name}: {entry.card.title} ({entry.card.year})", template="plotly_white", height=700)
    figure.update_xaxes(title_text="score", row=2, col=1)
    figure.write_html(str(path), include_plotlyjs=True, full_html=True)


def _data(entry: Entry) -> dict[str, Any]:
    """Plausible stand-ins for what would come from training data: two classes, one ten times as frequent."""
    known = {"class_counts": torch.tensor([100.0, 1000.0]), "classes": 2, "num_classes": 2}
    counts = {name: POINTS for name in ("examples", "num_examples")}
    hypers = entry.loss.hyperparameters()
    return {n: v for n, v in {**known, **counts}.items() if n in hypers and hypers[n].kind == "data"}


def _single(loss: RowLoss) -> bool:
    return not set(VIEWS["classes"]) & set(loss.accepts) and "desirable" in loss.accepts


def _rows(loss: RowLoss, grid: Tensor, column: int) -> Curve:
    """Every grid point is a row of its own."""
    scores = torch.zeros(len(grid), 1 if _single(loss) else 2, dtype=torch.float64)
    scores[:, column] = grid
    scores.requires_grad_()
    value = loss(scores, _targets(loss, len(grid)), **_fields(loss, len(grid)))
    if not value.requires_grad:
        raise ValueError("its value does not depend on the scores")
    value = _unreduced(loss, scores, value)
    (gradient,) = torch.autograd.grad(value.sum(), scores)
    moving = "score of the right alternative" if column == 0 else "score of a wrong alternative"
    if _single(loss):
        moving = "score of a desirable response"
    return Curve(moving, grid.tolist(), value.tolist(), gradient[:, column].tolist())


def _unreduced(loss: RowLoss, scores: Tensor, value: Tensor) -> Tensor:
    if value.dim() == 1:
        return value
    rows = scores.shape[0]
    each = [
        loss(scores[k : k + 1], _targets(loss, 1), **_fields(loss, 1)) for k in range(rows)
    ]  # a batch of one row: its mean is the row
    return torch.stack([one.reshape(()) for one in each])


def _targets(loss: RowLoss, rows: int) -> Targets:
    views = set(loss.accepts)
    right = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(rows, 2)
    if _single(loss):
        return desirable(torch.ones(rows, dtype=torch.bool))
    if loss.plain == "graded" and views & set(VIEWS["graded"]):
        return graded(right)
    if views & set(VIEWS["classes"]):
        return classes(torch.zeros(rows, dtype=torch.long))
    if "positive" in views:
        return multi_label(right > 0)
    if "probability" in views:
        return soft(right)
    return teacher(2 * right - 1)


def _fields(loss: RowLoss, rows: int) -> dict[str, Tensor]:
    """Neutral values for what a rule asks for by name."""
    needed = loss.wrapped().fields_needed
    fields = {name: torch.ones(rows, dtype=torch.float64) for name in needed}
    fields["ids"] = torch.arange(rows)
    return fields


def _pointwise(loss: Loss, grid: Tensor) -> Curve:
    """Objectives of predictions and values: each prediction against the value 0."""
    points = grid.clone().requires_grad_()
    zero = torch.zeros(1, dtype=torch.float64)
    each = torch.stack([loss(point.reshape(1), zero).sum() for point in points.unbind()])
    (gradient,) = torch.autograd.grad(each.sum(), points)
    return Curve("prediction, the value being 0", grid.tolist(), each.tolist(), gradient.tolist())
