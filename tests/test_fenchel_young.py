"""Sparse maps, Fenchel-Young and difference losses, proper scores, losses of label sets: what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import torchlosses as tl
from torchlosses.losses.classification import maps

Map = Callable[[Tensor], Tensor]
MAPS: dict[str, Map] = {
    "entmax 1": lambda s: tl.entmax(s, 1.0),
    "entmax 1.001": lambda s: tl.entmax(s, 1.001),
    "entmax 1.2": lambda s: tl.entmax(s, 1.2),
    "entmax 1.5": tl.entmax,
    "sparsemax": tl.sparsemax,
    "entmax 3": lambda s: tl.entmax(s, 3.0),
    "normmax": tl.normmax,
    "normmax 1.3": lambda s: tl.normmax(s, 1.3),
    "normmax 4": lambda s: tl.normmax(s, 4.0),
}
CAPPED: dict[str, Map] = {
    "capped 1": lambda s: tl.capped_simplex(s, 1),
    "capped 2.5": lambda s: tl.capped_simplex(s, 2.5),
    "capped all": lambda s: tl.capped_simplex(s, s.shape[-1]),
}
REGULARIZERS: dict[str, dict[str, object]] = {
    "shannon": {"regularizer": "shannon"},
    "tsallis 1.2": {"regularizer": "tsallis", "alpha": 1.2},
    "tsallis 1.5": {"regularizer": "tsallis", "alpha": 1.5},
    "sparsemax": {"regularizer": "tsallis", "alpha": 2.0},
    "tsallis 2.5": {"regularizer": "tsallis", "alpha": 2.5},
    "norm 2": {"regularizer": "norm", "alpha": 2.0},
    "norm 1.4": {"regularizer": "norm", "alpha": 1.4},
    "none": {"regularizer": "none"},
    "squared": {"regularizer": "squared"},
    "logistic": {"regularizer": "logistic"},
}
Build = Callable[..., tl.RowLoss]
ROWS: dict[str, Build] = {
    **{f"fenchel-young {n}": partial(tl.FenchelYoung, **hp) for n, hp in REGULARIZERS.items()},
    "ldr": tl.LDR,
    "ldr 0.1": lambda **k: tl.LDR(lam=0.1, margin=0.0, **k),
    "ldr inf": lambda **k: tl.LDR(lam=math.inf, **k),
    "ldr softplus": lambda **k: tl.LDR(normalize="softplus_mean", **k),
    "ldr l1": lambda **k: tl.LDR(normalize="l1_mean", lam=0.5, **k),
    "ldr l1 max": lambda **k: tl.LDR(normalize="l1_mean", lam=0.0, **k),
    "ldr l1 mean": lambda **k: tl.LDR(normalize="l1_mean", lam=math.inf, **k),
    "crammer-singer": tl.CrammerSinger,
    "weston-watkins": tl.WestonWatkins,
    "weston-watkins 2": lambda **k: tl.WestonWatkins(power=2, columns="mean", **k),
    "multi-label margin": tl.MultiLabelMargin,
    "brier": tl.Brier,
    "spherical score": tl.SphericalScore,
    "rps": tl.RankedProbabilityScore,
    "sparse softmax": lambda **k: tl.SparseSoftmax(k=2, **k),
    "zlpr": tl.ZLPR,
    "z-loss": lambda **k: tl.ZLoss(b=1.0, **k),
    "spherical softmax": tl.SphericalSoftmax,
    "taylor 2": tl.TaylorSoftmax,
    "taylor 4": lambda **k: tl.TaylorSoftmax(order=4, **k),
}
NOT_SMOOTH = {"fenchel-young none", "ldr l1 max", "crammer-singer", "weston-watkins", "multi-label margin"}


def batch(rows: int = 10, columns: int = 5, seed: int = 0, scale: float = 1.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale
    return scores, torch.randint(columns, (rows,), generator=generator)


# --- maps ------------------------------------------------------------------------------------------------------


def by_sorting(s: Tensor, alpha: float) -> Tensor:
    """The exact algorithms for alpha 1.5 and 2."""
    z = s * (alpha - 1)
    x, k = z.sort(descending=True).values, torch.arange(1, len(s) + 1, dtype=s.dtype)
    mean, square = x.cumsum(0) / k, x.square().cumsum(0) / k
    tau = mean - 1 / k if alpha == 2 else mean - ((1 - k * (square - mean**2)) / k).clamp(min=0).sqrt()
    size = int((tau <= x).sum())
    return (z - tau[size - 1]).relu() ** (1 / (alpha - 1))


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_entmax_is_what_sorting_gives(alpha: float) -> None:
    scores, _ = batch(20, 9)
    wanted = torch.stack([by_sorting(s, alpha) for s in scores])
    torch.testing.assert_close(tl.entmax(scores, alpha), wanted)
    torch.testing.assert_close(tl.entmax(scores, torch.tensor(alpha)), wanted)  # the general solver


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_a_shift_invariant_permutation_equivariant_distribution(name: str) -> None:
    scores, _ = batch(20, 9)
    p = MAPS[name](scores)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(MAPS[name](scores + 7.0), p)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(MAPS[name](scores[:, order]), p[:, order])


@pytest.mark.parametrize("name", [n for n in REGULARIZERS if n not in ("squared", "logistic")])
def test_a_map_beats_other_distributions_at_what_it_maximizes(name: str) -> None:
    loss = tl.FenchelYoung(**REGULARIZERS[name])
    scores, _ = batch(30, 6)
    best = (loss.map(scores) * scores).sum(-1) - loss.omega(loss.map(scores))
    for seed in range(20):
        other = (loss.map(scores) + batch(30, 6, seed + 5)[0].softmax(-1) * 0.01 * seed) / (1 + 0.01 * seed)
        assert ((other * scores).sum(-1) - loss.omega(other) <= best + 1e-12).all()


@pytest.mark.parametrize("name", {**MAPS, **CAPPED})
def test_derivatives_of_maps(name: str) -> None:
    scores, _ = batch(4, 6)
    function = {**MAPS, **CAPPED}[name]
    assert torch.autograd.gradcheck(function, scores.requires_grad_())
    assert torch.autograd.gradgradcheck(function, scores)


@pytest.mark.parametrize("alpha", [1.0001, 1.3, 1.5, 2.0, 2.5])
def test_derivative_in_alpha(alpha: float) -> None:
    scores, _ = batch(4, 6)
    a = torch.full((4, 1), alpha, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tl.entmax, (scores.requires_grad_(), a), eps=1e-7, atol=1e-4)
    one = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    (whole,) = torch.autograd.grad(tl.entmax(scores, one)[:, 0].sum(), one)
    (each,) = torch.autograd.grad(tl.entmax(scores, a)[:, 0].sum(), a)
    torch.testing.assert_close(whole, each.sum())


def test_derivative_in_alpha_has_the_softmax_limit() -> None:
    scores, _ = batch(4, 6)
    found = []
    for alpha in (1.0, 1 + 3e-5, 1 + 3e-4):
        a = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
        found += torch.autograd.grad(tl.entmax(scores, a)[:, 0].sum(), a)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=0)
    torch.testing.assert_close(found[1], found[2], rtol=1e-3, atol=0)


def test_entmax_tends_to_softmax_and_to_the_largest() -> None:
    scores, _ = batch()
    torch.testing.assert_close(tl.entmax(scores, 1 + 1e-6), scores.softmax(-1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(tl.entmax(scores * 1e6), torch.nn.functional.one_hot(scores.argmax(-1), 5).double())


def test_capped_simplex_keeps_its_budget() -> None:
    scores, _ = batch(20, 9)
    for k in (1, 2.5, 8, 9):
        p = tl.capped_simplex(scores, k)
        assert (p >= 0).all() and (p <= 1).all()
        torch.testing.assert_close(p.sum(-1), torch.full((20,), float(k), dtype=torch.float64))
    torch.testing.assert_close(tl.capped_simplex(scores, 1), tl.sparsemax(scores))


@pytest.mark.parametrize("name", {**MAPS, **CAPPED})
def test_long_rows_are_solved_among_their_largest_scores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, _ = batch(3, 3000, scale=3.0)
    function = {**MAPS, **CAPPED}[name]
    found = function(scores)
    monkeypatch.setattr(maps, "FEW", 1 << 40)
    torch.testing.assert_close(found, function(scores))


@pytest.mark.parametrize("name", {**MAPS, **CAPPED})
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_maps_at_extremes(name: str, dtype: torch.dtype) -> None:
    rows = [[1e4, -1e4, 0.0, 3.0], [1e4, 1e4, 1e4, 1e4], [-1e4, -1e4, -1e4, -torch.inf], [-torch.inf] * 4]
    s = torch.tensor(rows, dtype=dtype, requires_grad=True)
    p = {**MAPS, **CAPPED}[name](s)
    assert p.dtype == dtype and p.isfinite().all() and (p[-1] == 0).all() and p[2, 3] == 0
    (gradient,) = torch.autograd.grad((p * torch.arange(4.0).to(dtype)).sum(), s)
    assert gradient.isfinite().all()


def test_maps_along_another_dimension_and_under_vmap() -> None:
    scores, _ = batch(6, 4)
    torch.testing.assert_close(tl.entmax(scores, 1.5, dim=0), tl.entmax(scores.T, 1.5).T)
    torch.testing.assert_close(torch.func.vmap(tl.normmax)(scores), tl.normmax(scores))
    assert tl.sparsemax(torch.zeros(3, 0)).shape == (3, 0)


def test_maps_refuse() -> None:
    s = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"alpha: expected a number in \[1, inf\), got 0.5"):
        tl.entmax(s, 0.5)
    with pytest.raises(ValueError, match=r"alpha: expected numbers in \[1, inf\), got 0.5"):
        tl.entmax(s, torch.tensor(0.5))
    with pytest.raises(ValueError, match="alpha: expected a number or a tensor of size 1 along dim -1"):
        tl.entmax(s, torch.full((2, 3), 1.5))
    with pytest.raises(ValueError, match=r"alpha: expected a number in \(1, inf\), got 1.0"):
        tl.normmax(s, 1.0)
    with pytest.raises(ValueError, match=r"budget: expected a number in \(0, 3\], got 4"):
        tl.capped_simplex(s, 4)
    with pytest.raises(TypeError, match="scores: expected a floating-point tensor"):
        tl.sparsemax(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="alpha: expected a number in"):
        tl.FenchelYoung(regularizer="norm", alpha=1.0)
    with pytest.raises(ValueError, match="order: expected an even integer"):
        tl.TaylorSoftmax(order=3)


# --- Fenchel-Young losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGULARIZERS)
def test_gradient_is_map_minus_target_and_zero_is_where_they_agree(name: str) -> None:
    loss = tl.FenchelYoung(**REGULARIZERS[name], reduction="none")
    scores, _ = batch()
    q = batch(seed=3)[0].softmax(-1)
    s = scores.clone().requires_grad_()
    rows = loss(s, tl.soft(q))
    (gradient,) = torch.autograd.grad(rows.sum(), s)
    torch.testing.assert_close(gradient, loss.predict(scores) - q)
    assert (rows >= -1e-12).all()
    torch.testing.assert_close(loss(scores, tl.soft(loss.predict(scores))), torch.zeros(10, dtype=torch.float64))


@pytest.mark.parametrize("name", [n for n in REGULARIZERS if n != "none"])
def test_targets_may_want_gradients(name: str) -> None:
    loss, q = tl.FenchelYoung(**REGULARIZERS[name]), batch(4, seed=3)[0].softmax(-1)
    scores, _ = batch(4)
    check = torch.autograd.gradcheck(
        lambda s, q: loss(s, tl.soft(q)), (scores.requires_grad_(), q.detach().requires_grad_())
    )
    assert check


@pytest.mark.parametrize(
    ("special", "general"),
    [
        (tl.CrossEntropy(), tl.FenchelYoung(regularizer="shannon")),
        (tl.CrossEntropy(), tl.Entmax(alpha=1.0)),
        (tl.Sparsemax(), tl.Entmax(alpha=2.0)),
        (tl.CrammerSinger(margin=0.0), tl.FenchelYoung(regularizer="none")),
        (tl.BinaryCrossEntropy(columns="sum"), tl.FenchelYoung(regularizer="logistic")),
        (tl.CrammerSinger(margin=1.5), tl.LDR(lam=0.0, margin=1.5)),
        (tl.CrammerSinger(margin=1.5), tl.LDR(lam=1e-6, margin=1.5)),
        (tl.LDR(lam=math.inf), tl.LDR(lam=1e7)),
        (tl.CrossEntropy(), tl.SparseSoftmax(k=5)),
        (tl.CrossEntropy(), tl.SparseSoftmax(k=50)),
        (tl.CrossEntropy(), tl.TaylorSoftmax(order=24)),
    ],
)
def test_special_cases(special: tl.RowLoss, general: tl.RowLoss) -> None:
    scores, index = batch()
    s = scores.requires_grad_()
    values = [loss(s, index) for loss in (special, general)]
    gradients = [torch.autograd.grad(v, s)[0] for v in values]
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


def test_ldr_at_one_is_cross_entropy_less_log_of_the_columns() -> None:
    scores, index = batch()
    torch.testing.assert_close(tl.LDR(lam=1.0, margin=0.0)(scores, index), tl.CrossEntropy()(scores, index) - math.log(5))


def test_multi_margin_is_torchs() -> None:
    scores, index = batch()
    for p in (1, 2):
        ours = tl.WestonWatkins(power=p, margin=0.7, columns="mean")(scores, index)
        torch.testing.assert_close(ours, torch.nn.functional.multi_margin_loss(scores, index, p=p, margin=0.7))


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
def test_entmax_loss_has_a_margin(alpha: float) -> None:
    gap = 1 / (alpha - 1)
    s = torch.tensor([[gap, 0.0, -3.0], [gap - 0.05, 0.0, -3.0]], dtype=torch.float64)
    rows = tl.Entmax(alpha=alpha, reduction="none")(s, torch.tensor([0, 0]))
    assert abs(float(rows[0])) < 1e-12 < float(rows[1])


@pytest.mark.parametrize("name", [n for n in ROWS if n not in NOT_SMOOTH])
def test_gradients_twice(name: str) -> None:
    scores, index = batch(4)
    loss = ROWS[name]()
    assert torch.autograd.gradcheck(lambda s: loss(s, tl.classes(index)), scores.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda s: loss(s, tl.classes(index)), scores)


@pytest.mark.parametrize("name", ROWS)
def test_blocked_is_dense_on_a_linear_head(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(12, 20, generator=generator, dtype=torch.float64, requires_grad=True)
    w = torch.randn(7, 20, generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randint(7, (12,), generator=generator)
    y[3] = -100
    found = []
    for limits in ({"dense": 1 << 30}, {"dense": 0, "block": 4 * 7 * 8}):
        with tl.memory_budget(**limits):
            value = ROWS[name]()(tl.linear(h, w, b), tl.classes(y))
            found.append((value, *torch.autograd.grad(value, (h, w, b))))
    for dense, blocked in zip(*found, strict=True):
        torch.testing.assert_close(dense, blocked)


@pytest.mark.parametrize("name", ["zlpr", "multi-label margin", "fenchel-young tsallis 1.5", "fenchel-young squared"])
def test_blocked_is_dense_with_several_labels(name: str) -> None:
    scores, _ = batch(12, 7)
    hot = batch(12, 7, seed=4)[0] > 1.0
    hot[2], hot[5] = True, False
    s = scores.requires_grad_()
    found = []
    for limits in ({"dense": 1 << 30}, {"dense": 0, "block": 200}):
        with tl.memory_budget(**limits):
            value = ROWS[name]()(s, tl.multi_label(hot))
            found.append((value, *torch.autograd.grad(value, s)))
    for dense, blocked in zip(*found, strict=True):
        torch.testing.assert_close(dense, blocked)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extremes(name: str, dtype: torch.dtype) -> None:
    rows = [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4], [0.0, 0.0, 0.0], [-1e4, -1e4, 1e4]]
    s = torch.tensor(rows, dtype=dtype, requires_grad=True)
    for limits in ({"dense": 1 << 30}, {"dense": 0, "block": 1}):
        with tl.memory_budget(**limits):
            value = ROWS[name]()(s, tl.classes(torch.zeros(5, dtype=torch.long)))
            (gradient,) = torch.autograd.grad(value, s)
        assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("name", ROWS)
def test_one_class_ignored_rows_and_no_rows(name: str) -> None:
    loss = ROWS[name]()
    for s, y in (
        (torch.tensor([[2.0], [-3.0]]), torch.tensor([0, 0])),
        (torch.randn(2, 4), torch.tensor([-100, -100])),
        (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
    ):
        s.requires_grad_()
        value = loss(s, tl.classes(y))
        (gradient,) = torch.autograd.grad(value, s)
        assert value.isfinite() and gradient.isfinite().all()
        if s.shape[1] > 1:
            assert value == 0 and not gradient.any()


@pytest.mark.parametrize("name", ROWS)
def test_masked_columns_are_as_if_absent(name: str) -> None:
    scores, _ = batch()
    s = scores.clone()
    s[:, [2, 4]] = -torch.inf
    s.requires_grad_()
    y = torch.tensor([0, 1, 3, 0, 1, 3, 0, 1, 3, 0])
    loss = ROWS[name](reduction="none")
    found = loss(s, tl.classes(y))
    torch.testing.assert_close(found, loss(scores[:, [0, 1, 3]], tl.classes(torch.where(y == 3, 2, y))))
    (gradient,) = torch.autograd.grad(found.sum(), s)
    assert not gradient[:, [2, 4]].any() and gradient.isfinite().all()


# --- ties, sets of labels, proper scores -----------------------------------------------------------------------


def test_equal_maxima_share_the_gradient() -> None:
    s = torch.tensor([[0.0, 1.0, 1.0]], requires_grad=True)
    for loss, wanted in (
        (tl.FenchelYoung(regularizer="none"), [-1.0, 0.5, 0.5]),
        (tl.CrammerSinger(), [-1.0, 0.5, 0.5]),
        (tl.LDR(lam=1e-3, margin=1.0), [-1.0, 0.5, 0.5]),
    ):
        (gradient,) = torch.autograd.grad(loss(s, torch.tensor([0])), s)
        torch.testing.assert_close(gradient, torch.tensor([wanted]))


def test_multi_label_margin_is_the_sum_over_pairs() -> None:
    scores, _ = batch(30, 8)
    hot = batch(30, 8, seed=2)[0] > 0.5
    s = (scores * 4).round().div(4).requires_grad_()  # ties and exact kinks
    found = tl.MultiLabelMargin(margin=0.75, reduction="none")(s, tl.multi_label(hot))
    pairs = (0.75 - s[:, :, None] + s[:, None, :]).relu() * (hot[:, :, None] & ~hot[:, None, :])
    wanted = pairs.sum((1, 2)) / 8
    torch.testing.assert_close(found, wanted)
    for a, b in zip(torch.autograd.grad(found.sum(), s), torch.autograd.grad(wanted.sum(), s), strict=True):
        torch.testing.assert_close(a, b)


def test_two_way_compares_within_rows_and_within_columns() -> None:
    scores, _ = batch(6, 4)
    hot = batch(6, 4, seed=2)[0] > 0.8
    hot[1], hot[2], hot[:, 0] = True, False, False

    def one_way(s: Tensor, y: Tensor) -> Tensor:
        rows = []
        for row, right in zip(s, y, strict=True):
            if right.any() and right.all():
                rows.append(torch.zeros((), dtype=s.dtype))
            elif right.any():
                inner = 3 * (-row[right] / 3).logsumexp(0) + 2 * (row[~right] / 2).logsumexp(0)
                rows.append(torch.nn.functional.softplus(inner))
        return torch.stack(rows).mean()

    loss = tl.TwoWay(positive_temperature=3.0, negative_temperature=2.0)
    torch.testing.assert_close(loss(scores, hot), one_way(scores, hot) + one_way(scores.T, hot.T))
    h, w = batch(6, 3)[0].requires_grad_(), batch(4, 3, seed=1)[0].requires_grad_()
    found = []
    for limits in ({"dense": 1 << 30}, {"dense": 0, "block": 64}):
        with tl.memory_budget(**limits):
            value = loss(tl.linear(h, w), tl.multi_label(hot))
            found.append((value, *torch.autograd.grad(value, (h, w))))
    for dense, blocked in zip(*found, strict=True):
        torch.testing.assert_close(dense, blocked)
    assert loss(scores, torch.zeros(6, 4)) == 0


@pytest.mark.parametrize("loss", [tl.Brier(), tl.SphericalScore(), tl.RankedProbabilityScore(), tl.CrossEntropy()])
def test_a_proper_score_is_least_at_the_truth(loss: tl.RowLoss) -> None:
    truth = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    s = truth.log().requires_grad_()

    def expected(s: Tensor) -> Tensor:
        return sum((truth[0, k] * loss(s, torch.tensor([k])) for k in range(3)), torch.zeros(()))

    (gradient,) = torch.autograd.grad(expected(s), s)
    torch.testing.assert_close(gradient, torch.zeros(1, 3, dtype=torch.float64), atol=1e-12, rtol=0)
    for seed in range(5):
        assert expected(s + 0.3 * batch(1, 3, seed)[0]) > expected(s)


def test_zlpr_pulls_right_scores_above_zero_and_wrong_ones_below() -> None:
    hot = torch.tensor([[True, True, False], [False, False, False]])
    s = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(tl.ZLPR()(s, hot), s)
    assert (gradient[hot] < 0).all() and (gradient[~hot] > 0).all()
    assert tl.ZLPR().predict(torch.tensor([[2.0, -1.0]])).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("limits", [{"dense": 1 << 30}, {"dense": 0, "block": 64}])
def test_gradients_reach_soft_targets_that_are_zero_in_places(alpha: float, limits: dict[str, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    q = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    q.requires_grad_()
    with tl.memory_budget(**limits):
        (found,) = torch.autograd.grad(tl.Entmax(alpha=alpha, reduction="sum")(scores, tl.soft(q)), q)
    omega = ((q**alpha).sum(-1) - 1) / (alpha * (alpha - 1))
    (expected,) = torch.autograd.grad((omega - (q * scores).sum(-1)).sum(), q)
    difference = found - expected  # at mass 1 adding a constant to a row changes nothing
    torch.testing.assert_close(difference - difference.mean(-1, keepdim=True), torch.zeros_like(q))
