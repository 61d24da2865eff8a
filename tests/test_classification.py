"""What classification and margin losses promise: special cases, invariances, extremes, state."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchlosses as tl

COUNTS = torch.tensor([60, 25, 10, 4, 1])
Build = Callable[..., tl.RowLoss]

# every loss of a class index on plain scores
INDEXED: dict[str, Build] = {
    "cross entropy": tl.CrossEntropy,
    "smoothed": lambda **k: tl.CrossEntropy(label_smoothing=0.1, **k),
    "focal": tl.Focal,
    "focal 0.5": lambda **k: tl.Focal(gamma=0.5, **k),
    "poly": lambda **k: tl.PolyLoss(epsilons=(2.0, -0.5), **k),
    "poly focal": lambda **k: tl.PolyLoss(epsilons=-1.0, gamma=2.0, **k),
    "comp-sum 0": lambda **k: tl.CompSum(tau=0.0, **k),
    "comp-sum 0.5": lambda **k: tl.CompSum(tau=0.5, **k),
    "gce": tl.GeneralizedCrossEntropy,
    "mae": tl.MeanAbsoluteError,
    "sparsemax": tl.Sparsemax,
    "binary": tl.BinaryCrossEntropy,
    "sigmoid focal": lambda **k: tl.SigmoidFocal(epsilon=1.0, **k),
    "logit adjusted": lambda **k: tl.LogitAdjusted(class_counts=COUNTS, **k),
    "vector scaling": lambda **k: tl.VectorScaling(class_counts=COUNTS, **k),
    "aldr": lambda **k: tl.ALDR(examples=50, **k).eval(),
}
MARGIN: dict[str, Build] = {
    "arcface": tl.ArcFace,
    "arcface none": lambda **k: tl.ArcFace(guard="none", **k),
    "arcface clamp": lambda **k: tl.ArcFace(guard="clamp", **k),
    "arcface easy": lambda **k: tl.ArcFace(guard="easy", **k),
    "cosface": tl.CosFace,
    "combined": tl.CombinedMargin,
    "combined 0.9": lambda **k: tl.CombinedMargin(multiplier=0.9, **k),
    "ldam": lambda **k: tl.LDAM(class_counts=COUNTS, **k),
    "adaface": lambda **k: tl.AdaFace(**k).eval(),
}


def batch(rows: int = 12, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, 5, generator=generator, dtype=torch.float64) * scale
    return scores, torch.randint(5, (rows,), generator=generator)


def cosines(rows: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator, dtype=torch.float64) * 20
    w = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    return x, w, torch.randint(5, (rows,), generator=generator)


def both(a: tl.RowLoss, b: tl.RowLoss, scores: Tensor, targets: tl.Targets | Tensor) -> None:
    """Same value and gradient."""
    s = scores.clone().requires_grad_()
    values = [loss(s, targets) for loss in (a, b)]
    gradients = [torch.autograd.grad(v, s)[0] for v in values]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("special", "general"),
    [
        (tl.CrossEntropy(), tl.CompSum(tau=1.0)),
        (tl.CrossEntropy(), tl.Focal(gamma=0.0)),
        (tl.CrossEntropy(), tl.PolyLoss(epsilons=(0.0,))),
        (tl.Focal(gamma=1.5), tl.PolyLoss(epsilons=(0.0,), gamma=1.5)),
        (tl.BinaryCrossEntropy(), tl.SigmoidFocal(gamma=0.0, alpha=None)),
        (tl.MeanAbsoluteError(), tl.CompSum(tau=2.0)),
        (tl.MeanAbsoluteError(), tl.GeneralizedCrossEntropy(q=1.0)),
        (tl.GeneralizedCrossEntropy(q=0.7), tl.CompSum(tau=1.7)),
        (tl.CrossEntropy(), tl.LogitAdjusted(class_counts=COUNTS, tau=0.0)),
        (tl.CrossEntropy(), tl.LogitAdjusted(class_counts=torch.full((5,), 7))),
        (tl.LogitAdjusted(class_counts=COUNTS), tl.VectorScaling(class_counts=COUNTS, gamma=0.0)),
    ],
)
@pytest.mark.parametrize("soft", [False, True])
def test_special_cases(special: tl.RowLoss, general: tl.RowLoss, soft: bool) -> None:
    scores, index = batch()
    both(special, general, scores, batch(seed=1)[0].softmax(-1) if soft else index)


@pytest.mark.parametrize("tau", [1 - 1e-7, 1 + 1e-7])
def test_comp_sum_is_continuous_at_cross_entropy(tau: float) -> None:
    scores, index = batch()
    torch.testing.assert_close(tl.CompSum(tau=tau)(scores, index), tl.CrossEntropy()(scores, index), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "loss",
    [
        tl.ArcFace(margin=0.0, scale=10.0),
        tl.CosFace(margin=0.0, scale=10.0),
        tl.CombinedMargin(angle=0.0, margin=0.0, scale=10.0),
        tl.LDAM(class_counts=COUNTS, max_margin=0.0, scale=10.0),
    ],
)
def test_without_margin_is_cross_entropy_on_scaled_cosines(loss: tl.RowLoss) -> None:
    x, w, y = cosines()
    torch.testing.assert_close(loss(tl.cosine(x, w), y), tl.CrossEntropy()(tl.cosine(x, w) * 10.0, y))
    torch.testing.assert_close(loss.predict(tl.cosine(x, w)), (tl.cosine(x, w) * 10.0).tensor().softmax(-1))


def test_margins_combine() -> None:
    x, w, y = cosines()
    s = tl.cosine(x, w).tensor()
    both(tl.ArcFace(margin=0.4, guard="none"), tl.CombinedMargin(angle=0.4, margin=0.0), s, y)
    both(tl.CosFace(margin=0.3), tl.CombinedMargin(angle=0.0, margin=0.3), s, y)
    assert tl.ArcFace()(s, y) > tl.CrossEntropy()(s * 64, y)


@pytest.mark.parametrize("guard", ["linear", "clamp", "none"])
def test_arcface_is_the_cosine_of_the_moved_angle(guard: str) -> None:
    theta = torch.linspace(0.1, math.pi - 0.6, 7, dtype=torch.float64)
    s = torch.stack([theta.cos(), torch.zeros_like(theta)], 1)
    found = tl.ArcFace(scale=1.0, margin=0.5, guard=guard, reduction="none")(s, torch.zeros(7, dtype=torch.long))
    torch.testing.assert_close(found, torch.nn.functional.softplus(-(theta + 0.5).cos()))


@pytest.mark.parametrize("name", [n for n in INDEXED if n not in ("binary", "sigmoid focal", "aldr", "vector scaling")])
def test_a_shift_of_the_row_changes_nothing(name: str) -> None:
    scores, index = batch()
    loss = INDEXED[name](reduction="none")
    torch.testing.assert_close(loss(scores, index), loss(scores + torch.randn(12, 1, dtype=torch.float64), index))


@pytest.mark.parametrize("name", [n for n in INDEXED if "vector" not in n and "logit" not in n])
def test_columns_may_be_permuted(name: str) -> None:
    scores, index = batch()
    order = torch.tensor([3, 1, 4, 0, 2])
    loss = INDEXED[name](reduction="none")
    torch.testing.assert_close(loss(scores, index), loss(scores[:, order], order.argsort()[index]))


@pytest.mark.parametrize("name", INDEXED)
def test_gradient_agrees_with_differences(name: str) -> None:
    scores, index = batch(6)
    loss = INDEXED[name](reduction="none").double()
    if name == "aldr":  # the moved temperatures are constants of the gradient
        moved = loss._moved

        def frozen(*arguments: Tensor) -> Tensor:
            kept.append(moved(*arguments)) if not kept else None
            return kept[0]

        kept: list[Tensor] = []
        loss._moved = frozen
    assert torch.autograd.gradcheck(lambda s: loss(s, index), scores.requires_grad_())


@pytest.mark.parametrize("loss", [tl.Focal(gamma=1.5), tl.PolyLoss(gamma=1.0), tl.CompSum(), tl.Sparsemax()])
def test_soft_gradient_agrees_with_differences(loss: tl.RowLoss) -> None:
    scores, _ = batch(4, scale=1.0)
    q = batch(4, seed=2)[0].softmax(-1)
    assert torch.autograd.gradcheck(lambda s: loss(s, q), scores.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda s: loss(s, q), scores)


@pytest.mark.parametrize("name", MARGIN)
def test_margin_gradient_agrees_with_differences(name: str) -> None:
    x, w, y = cosines(6)
    loss = MARGIN[name](reduction="none", scale=8.0).double()
    norm = x.norm(dim=1)
    assert torch.autograd.gradcheck(
        lambda a, b: loss(tl.cosine(a, b), tl.classes(y).given(query_norm=norm)), (x.requires_grad_(), w.requires_grad_())
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_detached_focal_weight(gamma: float) -> None:
    scores, index = batch()
    s = scores.requires_grad_()
    (found,) = torch.autograd.grad(tl.Focal(gamma=gamma, detach_weight=True)(s, index), s)
    p = s.detach().softmax(-1).gather(1, index[:, None]).squeeze(1)
    weight = (1 - p) ** gamma
    (wanted,) = torch.autograd.grad((weight * tl.CrossEntropy(reduction="none")(s, index)).mean(), s)
    torch.testing.assert_close(found, wanted)


def test_detached_arcface_has_the_gradient_of_the_cosine() -> None:
    s = torch.tensor([[0.3, 0.1]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0])
    (found,) = torch.autograd.grad(tl.ArcFace(scale=5.0, detach_margin=True)(s, y), s)
    target = 5 * math.cos(math.acos(0.3) + 0.5)
    p = torch.sigmoid(torch.tensor(target - 0.5, dtype=torch.float64))
    torch.testing.assert_close(found, torch.stack([5 * (p - 1), 5 * (1 - p)])[None])


# --- blocked and dense, half precision, extremes ---------------------------------------------------------------


@pytest.mark.parametrize("name", [*INDEXED, *MARGIN])
def test_blocked_equals_dense(name: str) -> None:
    x, w, y = cosines(23)
    y[3] = -100
    targets = tl.classes(y, weight=torch.rand(5, dtype=torch.float64) + 0.5)
    loss = {**INDEXED, **MARGIN}[name]().double()
    found = []
    for limits in ({"dense": 1 << 30}, {"dense": 0, "block": 256}):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        with tl.memory_budget(**limits):
            value = loss(tl.cosine(a, b), targets)
            found.append((value.detach(), *torch.autograd.grad(value, (a, b))))
    for dense, blocked in zip(*found, strict=True):
        torch.testing.assert_close(dense, blocked)


@pytest.mark.parametrize("limits", [{"dense": 1 << 30}, {"dense": 0, "block": 256}])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", INDEXED)
def test_extreme_scores_are_finite(name: str, soft: bool, limits: dict[str, int]) -> None:
    if soft and name == "aldr":
        pytest.skip("a class index only")
    rows = [[1e4, -1e4, 0.0, 1e4, -1e4], [-1e4, 1e4, 1e4, 1e4, 1e4], [0.0] * 5, [1e4] * 5, [-1e4] * 5, [80.0, -80, 0, 0, 0]]
    scores = torch.tensor(rows * 2, requires_grad=True)
    index = torch.tensor([0] * 6 + [1] * 6)
    targets: tl.Targets | Tensor = index
    if soft:
        targets = torch.nn.functional.one_hot(index, 5).float() * 0.8 + 0.04
    with tl.memory_budget(**limits):
        value = INDEXED[name]()(scores, targets)
    value.backward()
    assert torch.isfinite(value) and scores.grad is not None and torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("limits", [{"dense": 1 << 30}, {"dense": 0, "block": 256}])
@pytest.mark.parametrize("name", MARGIN)
def test_cosines_of_one_have_finite_gradients(name: str, limits: dict[str, int]) -> None:
    s = torch.tensor([[1.0, -1, 0, 1, -1], [-1, 1, 0.5, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], requires_grad=True)
    targets = tl.classes(torch.tensor([0, 0, 0, 0])).given(query_norm=torch.tensor([1.0, 20.0, 500.0, 0.0]))
    with tl.memory_budget(**limits):
        value = MARGIN[name]()(s, targets)
    value.backward()
    assert torch.isfinite(value) and s.grad is not None and torch.isfinite(s.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*INDEXED, *MARGIN])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    x, w, y = cosines()
    a, b = x.to(dtype).requires_grad_(), w.to(dtype).requires_grad_()
    value = {**INDEXED, **MARGIN}[name]()(tl.cosine(a, b), y)
    assert value.dtype == torch.float32
    value.backward()
    assert torch.isfinite(value)
    assert all(t.grad is not None and t.grad.dtype == dtype and torch.isfinite(t.grad).all() for t in (a, b))


@pytest.mark.parametrize("name", [n for n in INDEXED if n not in ("logit adjusted", "vector scaling")])
def test_one_column(name: str) -> None:
    scores = torch.randn(3, 1, requires_grad=True)
    value = INDEXED[name]()(scores, torch.zeros(3, dtype=torch.long))
    value.backward()
    assert torch.isfinite(value) and scores.grad is not None and torch.isfinite(scores.grad).all()
    if name not in ("binary", "sigmoid focal", "aldr"):
        torch.testing.assert_close(value.detach(), torch.tensor(0.0))


@pytest.mark.parametrize("name", [*INDEXED, *MARGIN])
def test_ignored_rows_do_not_count(name: str) -> None:
    scores, index = batch()
    scores = (scores / 10).clamp(-1, 1)
    loss = {**INDEXED, **MARGIN}[name]()
    norm = torch.linspace(5, 90, 12, dtype=torch.float64)
    some, hidden = index.clone(), torch.tensor([2, 7])
    some[hidden] = -100
    keep = some >= 0
    a = loss(scores, tl.classes(some).given(query_norm=norm))
    b = loss(scores[keep], tl.classes(index[keep]).given(query_norm=norm[keep]))
    torch.testing.assert_close(a, b)
    s = scores.clone().requires_grad_()
    none = loss(s, tl.classes(torch.full((12,), -100)).given(query_norm=norm))
    none.backward()
    assert none == 0 and s.grad is not None and not s.grad.any()


@pytest.mark.parametrize("name", ["focal", "poly", "comp-sum 0.5", "sparsemax", "binary", "smoothed"])
def test_masked_columns_are_as_if_absent(name: str) -> None:
    scores, _ = batch()
    hot = torch.zeros(12, 5, dtype=torch.bool)
    hot[:, :2] = torch.tensor([True, False])
    mask = torch.ones(12, 5, dtype=torch.bool)
    mask[:, 2] = mask[:, 4] = False
    kept = [0, 1, 3]
    loss = INDEXED[name](reduction="none")
    s = scores.clone().requires_grad_()
    found = loss(s, tl.multi_label(hot, mask))
    torch.testing.assert_close(found, loss(scores[:, kept], tl.multi_label(hot[:, kept])))
    (gradient,) = torch.autograd.grad(found.sum(), s)
    assert not gradient[:, [2, 4]].any()


# --- predictions -----------------------------------------------------------------------------------------------


def test_predictions_leave_training_terms_out() -> None:
    scores, _ = batch()
    plain = scores.softmax(-1)
    torch.testing.assert_close(tl.LogitAdjusted(class_counts=COUNTS).predict(scores), plain)
    torch.testing.assert_close(tl.Focal().predict(scores), plain)
    torch.testing.assert_close(tl.BinaryCrossEntropy().predict(scores), scores.sigmoid())
    p = tl.Sparsemax().predict(scores)
    torch.testing.assert_close(p.sum(-1), torch.ones(12, dtype=torch.float64))
    assert (p >= 0).all() and (p == 0).any()


def test_sparsemax_is_zero_exactly_at_a_margin_of_one() -> None:
    s = torch.tensor([[1.0, 0.0, -3.0], [0.9, 0.0, -3.0]], requires_grad=True)
    rows = tl.Sparsemax(reduction="none")(s, torch.tensor([0, 0]))
    assert rows[0] == 0 and rows[1] > 0
    rows.sum().backward()
    torch.testing.assert_close(s.grad, tl.Sparsemax().predict(s.detach()) - torch.tensor([1.0, 0.0, 0.0]))


def test_sparsemax_rows_without_a_right_column_are_empty() -> None:
    scores, _ = batch(3)
    hot = torch.tensor([[True, True, False, False, False], [False] * 5, [False, False, False, True, False]])
    rows = tl.Sparsemax(reduction="none")(scores, tl.multi_label(hot))
    assert rows[1] == 0
    torch.testing.assert_close(tl.Sparsemax(over="valid")(scores, tl.multi_label(hot)), rows.sum() / 2)


# --- state -----------------------------------------------------------------------------------------------------


def aldr_call(loss: tl.RowLoss, scores: Tensor, index: Tensor, ids: Tensor) -> Tensor:
    return loss(scores, tl.classes(index).given(ids=ids))


def test_aldr_keeps_a_temperature_of_each_example() -> None:
    scores, index = batch(4)
    loss = tl.ALDR(examples=10)
    assert (loss.state_dict()["temperatures"] == 1).all()
    ids = torch.tensor([1, 9, 4, 0])
    first = aldr_call(loss, scores, index, ids)
    kept = loss.temperatures.clone()
    moved = kept != 1
    assert moved[ids].all() and moved.sum() == 4
    second = aldr_call(loss, scores, index, ids)
    assert second != first
    other = tl.ALDR(examples=10)
    other.load_state_dict({"temperatures": kept})
    torch.testing.assert_close(aldr_call(other, scores, index, ids), second)


def test_aldr_evaluation_leaves_temperatures() -> None:
    scores, index = batch(4)
    loss = tl.ALDR(examples=10).eval()
    aldr_call(loss, scores, index, torch.arange(4))
    loss(scores, index)
    assert (loss.temperatures == 1).all()
    loss.train().terms(scores, tl.classes(index).given(ids=torch.arange(4)))
    assert (loss.temperatures == 1).all()


def test_aldr_blocked_moves_the_same_temperatures() -> None:
    scores, index = batch(30)
    found = []
    for limits in ({"dense": 1 << 30}, {"dense": 0, "block": 256}):
        loss = tl.ALDR(examples=40)
        with tl.memory_budget(**limits):
            for _ in range(2):
                aldr_call(loss, scores.requires_grad_(), index, torch.arange(30) + 5).backward()
        found.append(loss.temperatures)
    torch.testing.assert_close(*found)


def test_aldr_ignored_rows_keep_their_temperature() -> None:
    scores, _ = batch(3)
    loss = tl.ALDR(examples=3)
    aldr_call(loss, scores, torch.tensor([1, -100, 2]), torch.arange(3))
    assert loss.temperatures[1] == 1 and loss.temperatures[0] != 1


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (torch.tensor([0, 10, 1, 2]), ValueError, r"ids: expected integers in \[0, 10\), got 10 at row 1"),
        (torch.tensor([0, 3, -1, 2]), ValueError, r"ids: .*got -1 at row 2"),
        (torch.rand(4), TypeError, "ids: expected an integer tensor"),
        (torch.arange(3), ValueError, r"ids: expected one entry per row \(4\)"),
    ],
)
def test_aldr_refuses_wrong_ids(ids: Tensor, error: type[Exception], message: str) -> None:
    scores, index = batch(4)
    with pytest.raises(error, match=message):
        aldr_call(tl.ALDR(examples=10), scores, index, ids)


def test_aldr_asks_for_ids() -> None:
    scores, index = batch(4)
    with pytest.raises(TypeError, match=r"ids: .*targets.given\(ids=tensor\)"):
        tl.ALDR(examples=10)(scores, index)


def test_adaface_keeps_running_statistics() -> None:
    x, w, y = cosines()
    loss = tl.AdaFace(momentum=0.5).double()
    norm = x.norm(dim=1).clamp(0.001, 100)
    loss(tl.cosine(x, w), y)
    torch.testing.assert_close(loss.norm_mean, 0.5 * norm.mean() + 10)
    torch.testing.assert_close(loss.norm_std, 0.5 * norm.std() + 50)
    kept = {n: t.clone() for n, t in loss.state_dict().items()}
    loss.terms(tl.cosine(x, w), y)
    loss(tl.cosine(x[:1], w), y[:1])  # one row has no standard deviation
    loss.eval()(tl.cosine(x, w), y)
    assert all(torch.equal(t, kept[n]) for n, t in loss.state_dict().items())


def test_adaface_gives_the_norm_no_gradient() -> None:
    x, w, y = cosines()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(tl.AdaFace().double()(tl.cosine(x, w), y), x)
    torch.testing.assert_close((gradient * x).sum(1), torch.zeros(12, dtype=torch.float64))


# --- wrong inputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tl.Focal(gamma=-1.0), ValueError, r"gamma: expected a number in \[0"),
        (lambda: tl.CompSum(tau=2.5), ValueError, r"tau: expected a number in \[0, 2\]"),
        (lambda: tl.PolyLoss(epsilons="two"), TypeError, "epsilons: expected a number"),
        (lambda: tl.LogitAdjusted(), TypeError, "class_counts: required"),
        (lambda: tl.LogitAdjusted(class_counts=[1, 2]), TypeError, "class_counts: expected a tensor"),
        (lambda: tl.LogitAdjusted(class_counts=torch.tensor([-1, 2])), ValueError, "class_counts: expected counts >= 0"),
        (lambda: tl.LDAM(class_counts=COUNTS[:3])(*batch()), ValueError, r"class_counts: expected shape \(5,\)"),
        (lambda: tl.LogitAdjusted(class_counts=COUNTS[:3])(*batch()), ValueError, r"class_counts: expected shape \(5,\)"),
        (lambda: tl.BinaryCrossEntropy(pos_weight=torch.ones(3))(*batch()), ValueError, "pos_weight: expected"),
        (lambda: tl.ArcFace(guard="hard"), ValueError, "guard: expected one of"),
        (lambda: tl.ArcFace()(batch()[0], batch()[0].softmax(-1)), TypeError, r"targets: ArcFace expected one of classes"),
        (lambda: tl.ALDR(examples=0), ValueError, "examples: expected an integer >= 1"),
    ],
)
def test_wrong_inputs_are_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("loss", [tl.Brier, tl.RankedProbabilityScore, tl.ConfidencePenalty, tl.SphericalScore])
def test_a_masked_column_beside_very_low_scores_gives_no_nan(loss: type[tl.RowLoss]) -> None:
    scores = torch.tensor([[-1e4, -1e4, -torch.inf]], requires_grad=True)
    value = loss()(scores, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value, scores)
    shorter = torch.zeros(1, 2, requires_grad=True)
    expected = loss()(shorter, torch.tensor([0]))
    torch.testing.assert_close(value, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(gradient[:, :2], torch.autograd.grad(expected, shorter)[0], atol=1e-3, rtol=0)
    assert gradient[0, 2] == 0


def test_logit_norm_of_a_row_of_zeros() -> None:
    scores = torch.zeros(1, 3, requires_grad=True)
    value = tl.LogitNorm(eps=0.0)(scores, torch.tensor([0]))
    assert torch.equal(torch.autograd.grad(value, scores)[0], torch.zeros(1, 3))
    torch.testing.assert_close(value.detach(), torch.tensor(3.0).log())


@pytest.mark.parametrize("high", [100.0, 1e4])
def test_zlpr_streams_rows_whose_right_scores_are_very_high(high: float) -> None:
    found = {}
    for mode, limits in {"dense": {"dense": 1 << 30}, "blocked": {"dense": 0, "block": 256}}.items():
        scores = torch.tensor([[high, 0.0, 0.0], [-high, 0.0, high]], requires_grad=True)
        with tl.memory_budget(**limits):
            value = tl.ZLPR()(scores, tl.multi_label(torch.tensor([[1, 0, 0], [1, 0, 1]])))
            found[mode] = torch.autograd.grad(value, scores)[0]
    torch.testing.assert_close(found["blocked"], found["dense"])


NEAR_THE_EDGE = [
    (tl.Entmax, {"alpha": 1 + 1e-6}),
    (tl.BiTempered, {"t1": 1 - 1e-6, "t2": 1 + 1e-6}),
    (tl.BiTempered, {"t1": 1 - 1e-6, "t2": 1 - 1e-6}),
    (tl.JensenShannon, {"pi": 1e-6}),
    (tl.JensenShannon, {"pi": 1 - 1e-6}),
    (tl.RobustLog, {"alpha": 1e-6}),
    (tl.LDR, {"lam": 1e6, "margin": 1.0}),
    (tl.LDR, {"lam": 1e6, "margin": 1.0, "normalize": "l1_mean"}),
    (tl.GeneralizedCrossEntropy, {"q": 1e-6}),
    (tl.CompSum, {"tau": 1 - 1e-6}),
    (tl.AsymmetricUnhinged, {"a": 1.001, "q": 1e-3}),
    (tl.Normmax, {"alpha": 1.001}),
]


@pytest.mark.parametrize(("loss", "hyperparameters"), NEAR_THE_EDGE, ids=lambda x: getattr(x, "__name__", str(x)))
def test_float32_keeps_its_digits_where_hyperparameters_are_at_an_edge(
    loss: type[tl.RowLoss], hyperparameters: dict[str, float]
) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(40, 50, generator=generator)
    targets = torch.randint(0, 50, (40,), generator=generator)
    rows = loss(**hyperparameters, reduction="none")
    torch.testing.assert_close(rows(scores, targets), rows(scores.double(), targets).float(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("limits", [{"dense": 1 << 30}, {"dense": 0, "block": 256}])
def test_smoothing_over_the_wrong_columns_only(weighted: bool, limits: dict[str, int]) -> None:
    scores = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    index = torch.tensor([0, 4, 2, -100, 1, 1])
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5], dtype=torch.float64) if weighted else None
    with tl.memory_budget(**limits):
        value = tl.CrossEntropy(label_smoothing=0.3, smoothing="wrong_only")(scores, tl.classes(index, weight))
        (gradient,) = torch.autograd.grad(value, scores)
    kept = index >= 0
    q = torch.full_like(scores, 0.3 / 4).scatter(1, index.clamp(min=0)[:, None], 0.7) * (1.0 if weight is None else weight)
    own = torch.ones(6, dtype=torch.float64) if weight is None else weight[index.clamp(min=0)]
    expected = -(q * scores.log_softmax(-1)).sum(-1)[kept].sum() / own[kept].sum()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, scores)[0])


def test_of_equal_ids_the_last_is_kept_in_a_large_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (200_000,), generator=generator)
    scores = torch.randn(len(ids), 3, generator=generator)
    last = torch.empty(50, dtype=torch.long)
    for row, example in enumerate(ids.tolist()):
        last[example] = row
    targets = tl.classes(torch.zeros_like(ids)).given(ids=ids)
    adaptive, pruned = tl.ALDR(examples=50), tl.PrunedGCE(examples=50)
    adaptive(scores, targets)
    pruned.prune(scores, targets)
    alone = tl.ALDR(examples=50)
    alone(scores[last], tl.classes(torch.zeros_like(last)).given(ids=torch.arange(50)))
    torch.testing.assert_close(adaptive.temperatures, alone.temperatures)
    assert torch.equal(pruned.kept, scores[last].softmax(-1)[:, 0] > 0.5)


def slow_divergence(parts: Tensor, weights: list[float]) -> Tensor:
    """Jensen-Shannon divergence of distributions (V, C) by loops over where they are positive."""
    mean = sum(w * p for w, p in zip(weights, parts, strict=True))
    total = torch.zeros((), dtype=parts.dtype)
    for w, p in zip(weights, parts, strict=True):
        for k in range(parts.shape[1]):
            if p[k] > 0:
                total = total + w * p[k] * (p[k] / mean[k]).log()
    return total


@pytest.mark.parametrize("limits", [{"dense": 1 << 30}, {"dense": 0, "block": 64}])
@pytest.mark.parametrize("soft", [False, True])
def test_losses_of_several_views_agree_with_loops(limits: dict[str, int], soft: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    views = torch.randn(5, 2, 4, generator=generator, dtype=torch.float64).requires_grad_()
    q = torch.rand(5, 4, generator=generator, dtype=torch.float64).softmax(-1)
    q = q if soft else torch.eye(4, dtype=torch.float64)[torch.tensor([0, 1, 2, 3, 0])]
    targets = (tl.soft(q) if soft else tl.classes(q.argmax(-1))).given(views=views)
    p = torch.cat([scores[:, None], views], 1).softmax(-1)
    pi, third = 0.3, [1 / 3] * 3
    expected = {
        tl.AugMix(weight=5.0): [-(q[i] * p[i, 0].log()).sum() + 5 * slow_divergence(p[i], third) for i in range(5)],
        tl.JensenShannon(pi=pi): [
            slow_divergence(torch.cat([q[i : i + 1], p[i]]), [pi] + [(1 - pi) / 3] * 3) / (-(1 - pi) * math.log(1 - pi))
            for i in range(5)
        ],
    }
    for loss, rows in expected.items():
        with tl.memory_budget(**limits):
            value = loss(scores, targets)
            found = torch.autograd.grad(value, (scores, views))
        wanted = torch.stack(rows).mean()
        torch.testing.assert_close(value, wanted)
        torch.testing.assert_close(found, torch.autograd.grad(wanted, (scores, views), retain_graph=True))


def test_views_that_repeat_the_scores_change_nothing() -> None:
    scores, index = 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1, 2, 3, 0, -100])
    targets = tl.classes(index).given(views=scores[:, None])
    torch.testing.assert_close(tl.AugMix()(scores, targets), tl.CrossEntropy()(scores, index))
    torch.testing.assert_close(tl.JensenShannon()(scores, targets), tl.JensenShannon()(scores, index))


@pytest.mark.parametrize("loss", [tl.AugMix, tl.JensenShannon])
def test_views_with_a_column_that_does_not_exist(loss: type[tl.RowLoss]) -> None:
    scores = torch.tensor([[1e4, -torch.inf, -1e4], [0.0, -torch.inf, 1e4]], requires_grad=True)
    views = torch.tensor([[[-1e4, -torch.inf, 0.0]], [[3.0, -torch.inf, 1e4]]], requires_grad=True)
    index = torch.tensor([0, 2])
    value = loss()(scores, tl.classes(index).given(views=views))
    found = torch.autograd.grad(value, (scores, views))
    keep = [0, 2]
    less = loss()(scores[:, keep], tl.classes(index // 2).given(views=views[..., keep]))
    torch.testing.assert_close(value, less)
    assert all(bool(g.isfinite().all()) and not g[..., 1].any() for g in found)


@pytest.mark.parametrize("loss", [tl.Brier, tl.RankedProbabilityScore, tl.ConfidencePenalty])
@pytest.mark.parametrize("masked", [False, True])
def test_float32_keeps_its_digits_far_from_zero(loss: type[tl.RowLoss], masked: bool) -> None:
    scores = torch.randn(20, 9, generator=torch.Generator().manual_seed(4))
    index = torch.arange(20) % 8
    near, far = (scores + shift for shift in (0.0, 4096.0))
    far = (far - 4096.0) + 4096.0
    near = far - 4096.0
    if masked:
        near, far = (s.masked_fill(torch.arange(9) == 8, -torch.inf) for s in (near, far))
    q = tl.soft(torch.nn.functional.one_hot(index, 9).float())
    torch.testing.assert_close(loss()(far, q), loss()(near, q), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("lam", [1.0, 999.0, 1001.0, 1e6])
def test_ldr_predicts_by_scores_over_its_temperature(lam: float) -> None:
    scores = torch.tensor([[3.0, 1.0, -2.0]])
    torch.testing.assert_close(tl.LDR(lam=lam).predict(scores), (scores / lam).softmax(-1))
