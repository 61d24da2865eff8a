"""What every row loss of the catalogue keeps, whatever its formula: finite, blocked as dense, ignoring what is ignored."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import torchlosses as tl
from torchlosses import catalog
from torchlosses.draws import Draws
from torchlosses.loss import RowLoss

ROWS, COLUMNS, FEATURES = 12, 5, 4
DATA: dict[str, Any] = {
    "class_counts": torch.tensor([50.0, 20.0, 10.0, 5.0, 2.0]),
    "examples": 40,
    "classes": COLUMNS,
}
UNIT = ("cosine",)  # scores that lie in [-1, 1]
SETTINGS: dict[str, dict[str, Any]] = {
    "AUCMargin": {"classes": COLUMNS},
    "AveragePrecision": {"classes": COLUMNS},
    "PartialAUC": {"classes": COLUMNS},
    "LegendreTron": {"classes": COLUMNS + 1},
    "SoftTopK": {"k": 2},
}
ELSEWHERE = {  # objectives that take no matrix of 12 x 5 plain scores; each has tests of its own
    "ClassBalanced": "wraps another loss",
    "ClassSampling": "wraps another loss",
    "JointInfoNCE": "expands a comparison of queries and documents",
    "LargeMarginSoftmax": "asks for the norms of features and weights",
    "ReciprocalPoints": "asks for the features",
    "ReLUSupCon": "compares features among themselves",
    "SphereFace": "asks for the norms of the features",
    "SubCenterArcFace": "takes several columns a class",
    "SubclassBalancedContrastive": "compares features among themselves",
    "UNPG": "compares features among themselves",
}


def rule(entry: catalog.Entry) -> type[RowLoss] | None:
    return entry.loss if issubclass(entry.loss, RowLoss) else None


RULES = {e.name: e for e in catalog.entries() if rule(e) is not None and e.name not in ELSEWHERE}


def build(name: str) -> RowLoss:
    entry = RULES[name]
    data = {key: value for key, value in DATA.items() if key in entry.loss.hyperparameters()}
    hypers = entry.loss.hyperparameters()
    loss = entry.loss(**{k: v for k, v in data.items() if hypers[k].required} | SETTINGS.get(name, {}))
    assert isinstance(loss, RowLoss)
    return loss


def aims(loss: RowLoss, rows: int, ignored: bool = False) -> tl.Targets:
    """Targets of the first view that the loss reads."""
    accepts = loss.accepts
    index = torch.arange(rows) % COLUMNS
    if "index" in accepts or ("probability" in accepts and "grade" not in accepts):
        if ignored:
            index = index.clone()
            index[::3] = -100
        return tl.classes(index)
    hot = torch.zeros(rows, COLUMNS, dtype=torch.bool)
    hot[torch.arange(rows), index] = True
    hot[::2, 0] = True
    if "positive" in accepts:
        return tl.multi_label(hot)
    if "grade" in accepts:
        return tl.graded(hot.float())
    if "scores" in accepts:
        return tl.teacher(torch.linspace(-1, 1, rows * COLUMNS).reshape(rows, COLUMNS))
    return tl.desirable(index % 2 == 0)


def fields(loss: RowLoss, rows: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything that some rule asks for and the engine cannot make."""
    spread = torch.linspace(0.5, 1.5, rows).to(dtype)
    return {
        "ids": torch.arange(rows),
        "baseline": torch.zeros((), dtype=dtype),
        "nll": spread,
        "adversarial": spread[:, None].expand(rows, COLUMNS),
        "heldout_scores": spread[:, None].expand(rows, COLUMNS),
        "query_norm": 10 * spread,
        "target_norm": spread,
        "subclass": torch.arange(rows),
        "feature_norm": spread,
        "features": spread[:, None].expand(rows, 3),
        "own_distance": spread,
        "views": spread[:, None, None].expand(rows, 2, COLUMNS),
    }


def asked(loss: RowLoss, rows: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The fields without which the loss refuses the call."""
    found: dict[str, Tensor] = {}
    offered = fields(loss, rows, dtype)
    columns = 1 if loss.accepts == ("desirable",) else COLUMNS
    for _ in range(4):
        try:
            copy.deepcopy(loss)(torch.zeros(rows, columns, dtype=dtype), aims(loss, rows), **found)
            return found
        except TypeError as error:
            name = str(error).split(":")[0].split()[-1]
            if name not in offered or name in found:
                raise
            found[name] = offered[name]
    return found


def plain(loss: RowLoss, name: str, dtype: torch.dtype, size: float) -> Tensor:
    columns = 1 if loss.accepts == ("desirable",) else COLUMNS
    torch.manual_seed(0)
    scores = torch.randn(ROWS, columns).sign() * size
    scores[: ROWS // 3] *= torch.rand(ROWS // 3, columns)
    scores[0] = scores[0, 0]
    return scores.to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", RULES)
def test_finite_scores_give_finite_values_and_gradients(name: str, dtype: torch.dtype) -> None:
    loss = build(name)
    size = 1.0 if RULES[name].card.scores in UNIT else 1e4
    scores = plain(loss, name, dtype, size)
    fresh = copy.deepcopy(loss)
    value = loss(scores, aims(loss, ROWS), **asked(loss, ROWS, torch.float32))
    assert value.dtype == torch.float32
    assert torch.isfinite(value), value
    if value.requires_grad:
        value.backward()
        assert scores.grad is not None
        if dtype == torch.float16:  # a gradient that is larger than a half can hold is left to the gradient scaler
            wide = scores.detach().float().requires_grad_()
            copy.deepcopy(fresh)(wide, aims(loss, ROWS), **asked(loss, ROWS, torch.float32)).backward()
            assert wide.grad is not None and torch.isfinite(wide.grad).all()
            assert torch.isfinite(scores.grad[wide.grad.abs() < torch.finfo(dtype).max]).all()
        else:
            assert torch.isfinite(scores.grad).all(), scores.grad


@pytest.mark.parametrize("name", RULES)
def test_blocks_do_what_the_whole_matrix_does(name: str) -> None:
    loss = build(name).double()
    torch.manual_seed(0)
    x, w = (torch.randn(n, FEATURES, dtype=torch.double, requires_grad=True) for n in (ROWS, COLUMNS))
    given = asked(loss, ROWS, torch.double)
    targets = aims(loss, ROWS)

    def scores() -> tl.Scores | Tensor:
        kind = RULES[name].card.scores
        if loss.accepts == ("desirable",):
            return x[:, :1]
        return getattr(tl, kind)(x, w) if kind in ("cosine", "euclidean", "dot") else tl.linear(x, w)

    def run(dense: int) -> list[Tensor]:
        trial = copy.deepcopy(loss)
        learnt = [p for p in trial.parameters() if p.requires_grad]
        with tl.memory_budget(dense=dense, block=150):
            value = trial(scores(), targets, **given)
            found = torch.autograd.grad(value, [x, w, *learnt], allow_unused=True) if value.requires_grad else []
        return [value, *found, *trial.buffers()]

    for blocked, whole in zip(run(0), run(1 << 30), strict=True):
        if blocked is None or whole is None:
            present = blocked if whole is None else whole
            assert present is None or not present.any()
        else:
            torch.testing.assert_close(blocked, whole, rtol=1e-7, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", RULES)
def test_an_empty_batch_is_worth_nothing_and_keeps_its_graph(name: str) -> None:
    loss = build(name)
    columns = 1 if loss.accepts == ("desirable",) else COLUMNS
    given = {k: t[:0] if t.dim() else t for k, t in asked(loss, ROWS, torch.float32).items()}
    scores = torch.zeros(0, columns, requires_grad=True)
    value = loss(scores, aims(loss, ROWS).at(torch.arange(0)), **given)
    assert float(value) == 0.0
    value.backward()


@pytest.mark.parametrize("name", RULES)
def test_ignored_rows_change_nothing(name: str) -> None:
    loss = build(name).double()
    if aims(loss, ROWS).kind != "classes":
        pytest.skip("reads targets in which no row can be ignored")
    if isinstance(loss, Draws):
        pytest.skip("draws follow the rows, so fewer rows draw others")
    if name == "LegendreTron":
        loss.eval()  # normalizes by the first batch of scores that it is trained on
    torch.manual_seed(0)
    scores = torch.randn(ROWS, COLUMNS, dtype=torch.double).tanh().requires_grad_()
    given = asked(loss, ROWS, torch.double)
    targets = aims(loss, ROWS, ignored=True)
    kept = torch.arange(ROWS)[torch.arange(ROWS) % 3 != 0]
    both = []
    for trial, part in ((copy.deepcopy(loss), None), (copy.deepcopy(loss), kept)):
        if part is None:
            value = trial(scores, targets, **given)
        else:
            cut = {k: t[part] if t.dim() else t for k, t in given.items()}
            value = trial(scores[part], targets.at(part), **cut)
        gradient = torch.autograd.grad(value, scores)[0] if value.requires_grad else torch.zeros_like(scores)
        both.append((value, gradient))
    torch.testing.assert_close(both[0][0], both[1][0])
    torch.testing.assert_close(both[0][1], both[1][1])


@pytest.mark.parametrize("name", RULES)
def test_a_loss_is_saved_copied_and_shown(name: str) -> None:
    loss = build(name)
    again = pickle.loads(pickle.dumps(loss))
    again.load_state_dict(loss.state_dict())
    assert repr(again) == repr(loss)
    assert repr(loss).startswith(type(loss).__name__)
    scores = plain(loss, name, torch.float32, 1.0).detach()
    given = asked(loss, ROWS, torch.float32)
    torch.testing.assert_close(loss(scores, aims(loss, ROWS), **given), again(scores, aims(loss, ROWS), **given))
