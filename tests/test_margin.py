"""Margins on cosines: one rule, its sources of scale and margin, and what stands on it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

import torchlosses as tl

B, C, D = 12, 7, 5
COUNTS = torch.tensor([50.0, 20, 10, 5, 4, 3, 1])

LOSSES: dict[str, Callable[[], tl.RowLoss]] = {
    "arcface": lambda: tl.ArcFace(),
    "arcface detached": lambda: tl.ArcFace(guard="clamp", detach_margin=True),
    "cosface": lambda: tl.CosFace(),
    "combined": lambda: tl.CombinedMargin(multiplier=1.2),
    "ldam": lambda: tl.LDAM(class_counts=COUNTS),
    "sphereface": lambda: tl.SphereFace(),
    "sphereface-r": lambda: tl.SphereFaceR(),
    "l-softmax": lambda: tl.LargeMarginSoftmax(margin=3),
    "elastic": lambda: tl.ElasticFace(seed=1),
    "elastic plus": lambda: tl.ElasticFace(form="cosine", margin=0.35, plus=True, seed=1),
    "adaface": lambda: tl.AdaFace(momentum=0.3),
    "magface": lambda: tl.MagFace(low_norm=0.5, high_norm=3.0),
    "curricularface": lambda: tl.CurricularFace(),
    "madacos": lambda: tl.MadaCos(),
    "madacos mean": lambda: tl.MadaCos(rows="mean", min_scale=5.0),
    "adacos": lambda: tl.AdaCos(),
    "one-vs-all": lambda: tl.OneVsAll(tl.ArcFace(), classes=C, biases="per_class"),
    "one-vs-all adaface": lambda: tl.OneVsAll(tl.AdaFace(), classes=C),
    "one-vs-all adacos": lambda: tl.OneVsAll(tl.AdaCos(), classes=C),
    "uniface": lambda: tl.UniFace(classes=C),
    "uniface bounded": lambda: tl.UniFace(classes=C, bounded=True),
    "sphereface2": lambda: tl.SphereFace2(classes=C),
    "unpg": lambda: tl.UNPG(),
    "unpg curricular": lambda: tl.UNPG(tl.CurricularFace(), whisker=0.5),
    "unpg madacos": lambda: tl.UNPG(tl.MadaCos()),
    "unpg magface": lambda: tl.UNPG(tl.MagFace(low_norm=0.5, high_norm=3.0)),
}
NEED_FEATURES = ("l-softmax", "unpg", "unpg curricular", "unpg madacos", "unpg magface")
STATISTICS = ("adaface", "curricularface", "madacos", "madacos mean", "adacos", "one-vs-all adaface", "one-vs-all adacos")


def features(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    w = torch.randn(C, D, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    return x, w, torch.randint(C, (B,), generator=g)


def evaluated(loss: tl.RowLoss, x: Tensor, w: Tensor, targets: Tensor | tl.Targets) -> list[Tensor]:
    value = loss(tl.cosine(x, w), targets)
    inputs = [x, w, *loss.parameters()]
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    return [value.detach(), *(torch.zeros_like(t) if g is None else g for g, t in zip(found, inputs, strict=True))]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_blocks_change_nothing(name: str, reduction: str) -> None:
    x, w, y = features()
    y[3] = -100
    found = []
    for limits in ({"dense": 1 << 30}, {"dense": 0, "block": 256}):
        loss = LOSSES[name]().double()
        if reduction == "none":
            loss._reduction = tl.CVaR(0.7)
            loss.reduction = tl.CVaR(0.7)
        with tl.memory_budget(**limits):
            found.append([*evaluated(loss, x, w, y), *loss.buffers()])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in ("elastic", "elastic plus")])
def test_ignored_rows_leave_no_trace(name: str) -> None:
    """A batch with ignored rows is worth what the batch without them is, statistics and state included."""
    x, w, y = features()
    kept = torch.arange(B) % 3 != 0
    with_ignored, alone = LOSSES[name]().double(), LOSSES[name]().double()
    first = evaluated(with_ignored, x, w, y.masked_fill(~kept, -100))
    value = alone(tl.cosine(x[kept], w), y[kept])
    second = [value.detach(), *torch.autograd.grad(value, [x, w])]
    for a, b in zip(first, second, strict=False):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    for a, b in zip(with_ignored.buffers(), alone.buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", STATISTICS)
def test_evaluation_reads_state_and_terms_leave_it(name: str) -> None:
    x, w, y = features()
    loss = LOSSES[name]().double()
    loss(tl.cosine(x, w), y)
    held = [b.clone() for b in loss.buffers()]
    loss.terms(tl.cosine(2 * x.flip(0), w), y)
    loss.eval()
    loss(tl.cosine(3 * x, w), y.flip(0))
    for before, now in zip(held, loss.buffers(), strict=True):
        assert torch.equal(before, now)
    nothing = loss.train()(tl.cosine(x, w), torch.full_like(y, -100))
    assert nothing == 0
    for before, now in zip(held, loss.buffers(), strict=True):
        assert torch.isfinite(now).all() and ("madacos" in name or torch.equal(before, now))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parallel_and_opposite_features_have_finite_gradients(name: str, dtype: torch.dtype) -> None:
    w = torch.cat([torch.eye(D), -torch.eye(D)])[:C].to(dtype).requires_grad_()
    x = torch.cat([torch.eye(D), -torch.eye(D), torch.zeros(1, D), torch.ones(1, D)]).to(dtype)
    for length in (1.0, 60.0):
        rows = (length * x).requires_grad_()
        for y in (torch.arange(B) % C, torch.zeros(B, dtype=torch.long)):
            for result in evaluated(LOSSES[name](), rows, w, y):
                assert torch.isfinite(result).all()


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in NEED_FEATURES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_far_outside_are_finite(name: str, dtype: torch.dtype) -> None:
    base = torch.tensor([1.0, -1.0, 0.0, 1 + 1e-7, -1 - 1e-3, 1e4, -1e4]).to(dtype)
    scores = torch.stack([base.roll(i) for i in range(C)]).requires_grad_()
    targets = tl.classes(torch.arange(C) % 3).given(query_norm=torch.linspace(0, 200, C))
    value = LOSSES[name]()(scores, targets)
    (gradient,) = torch.autograd.grad(value, scores)
    assert torch.isfinite(value) and torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_single_class_and_a_single_row(name: str) -> None:
    x, w, y = features(torch.float32)
    if name not in ("ldam", "one-vs-all"):
        for result in evaluated(LOSSES[name](), x, w[:1].detach().requires_grad_(), torch.zeros(B, dtype=torch.long)):
            assert torch.isfinite(result).all()
    one = x[:1].detach().requires_grad_()
    for result in evaluated(LOSSES[name](), one, w, y[:1]):
        assert torch.isfinite(result).all()


@pytest.mark.parametrize(
    "name",
    ["arcface", "cosface", "combined", "ldam", "sphereface", "l-softmax", "magface", "one-vs-all", "uniface", "unpg"],
)
def test_gradients_against_differences(name: str) -> None:
    x, w, y = features()
    loss = LOSSES[name]().double()
    assert torch.autograd.gradcheck(lambda a, b: loss(tl.cosine(a, b), y), (x, w), atol=1e-5)


def test_gradients_where_factors_are_frozen() -> None:
    """Statistics frozen, the gradient is that of the value: margins, scales, qualities carry none themselves."""
    x, w, y = features()
    cosines = (normalize(x) @ normalize(w).T).detach().requires_grad_()
    targets = tl.classes(y).given(query_norm=x.detach().norm(dim=1), row_margin=torch.linspace(0.3, 0.6, B))
    for name in ("elastic", "adaface", "curricularface"):
        loss = LOSSES[name]().double()
        loss(cosines, targets)
        loss.eval()
        assert torch.autograd.gradcheck(lambda s, loss=loss: loss(s, targets), (cosines,), atol=1e-5), name
    madacos = tl.MadaCos(min_scale=3.0).double()
    (found,) = torch.autograd.grad(madacos(cosines, y), cosines)
    scale, margin = float(madacos.current_scale), float(madacos.current_margin)
    (expected,) = torch.autograd.grad(tl.CosFace(scale=scale, margin=margin)(cosines, y), cosines)
    assert torch.allclose(found, expected)


def test_equal_at_these_settings() -> None:
    x, w, y = features()
    cosines = tl.cosine(x, w)
    plain = cross_entropy(30 * cosines.tensor(), y)
    for loss in (
        tl.ArcFace(margin=0.0, scale=30.0),
        tl.CosFace(margin=0.0, scale=30.0),
        tl.CombinedMargin(angle=0.0, margin=0.0, scale=30.0),
        tl.SphereFaceR(margin=1.0, scale=30.0),
        tl.SubCenters(tl.CosFace(margin=0.0, scale=30.0), centers=1),
    ):
        assert torch.allclose(loss(cosines, y), plain)
    assert torch.allclose(tl.LargeMarginSoftmax(margin=1)(cosines, y), cross_entropy(x @ w.T, y))
    assert torch.allclose(tl.SphereFace(margin=1)(cosines, y), cross_entropy(x @ normalize(w).T, y))
    assert torch.allclose(
        tl.ElasticFace(sigma=0.0)(cosines, y), tl.CombinedMargin(multiplier=1.0, angle=0.5, margin=0.0)(cosines, y)
    )
    assert torch.allclose(
        tl.ElasticFace(form="cosine", margin=0.35, sigma=0.0)(cosines, y), tl.CosFace(margin=0.35)(cosines, y)
    )
    assert torch.allclose(
        tl.AdaCos(mode="fixed").double()(cosines, y),
        cross_entropy(math.sqrt(2) * math.log(C - 1) * cosines.tensor(), y),
    )
    one = torch.full_like(y, 2)
    assert torch.allclose(tl.UNPG(tl.ArcFace())(cosines, one), tl.ArcFace()(cosines, one))
    hot = torch.nn.functional.one_hot(y, C).double()
    expected = binary_cross_entropy_with_logits(8 * cosines.tensor(), hot, reduction="none").sum(1).mean()
    assert torch.allclose(tl.OneVsAll(tl.CosFace(margin=0.0, scale=8.0), classes=C, biases="none")(cosines, y), expected)


@pytest.mark.parametrize("alpha", [0.02, 0.3])
def test_madacos_gives_its_median_row_the_wanted_probability(alpha: float) -> None:
    g = torch.Generator().manual_seed(2)
    cosines = 0.2 * torch.randn(9, 6, generator=g, dtype=torch.float64).clamp(-2, 2)
    y = torch.arange(9) % 6
    cosines[torch.arange(9), y] = torch.linspace(0.5, 0.9, 9, dtype=torch.float64)
    rows = tl.MadaCos(alpha=alpha, reduction="none").double()(cosines, y)
    assert torch.allclose(rows[4], torch.tensor(-math.log(alpha), dtype=torch.float64))


def test_adacos_follows_the_batch() -> None:
    x, w, y = features()
    loss = tl.AdaCos().double()
    cosines = tl.cosine(x, w).tensor().detach()
    hot = torch.nn.functional.one_hot(y, C).bool()
    scale = math.sqrt(2) * math.log(C - 1)
    for _ in range(3):
        total = (scale * cosines).exp().masked_fill(hot, 0).sum(1).mean()
        theta = cosines[hot].acos().median().clamp(max=math.pi / 4)
        scale = float(total.log() / theta.cos())
        assert torch.allclose(loss(cosines, y), cross_entropy(scale * cosines, y))
    resumed = tl.AdaCos().double()
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(resumed(cosines, y), loss(cosines, y))


def test_elastic_draws_once_and_plus_ranks_them() -> None:
    x, w, y = features()
    cosines = tl.cosine(x, w)
    margins = torch.linspace(0.2, 0.7, B, dtype=torch.float64)[torch.randperm(B, generator=torch.Generator().manual_seed(0))]
    given = tl.classes(y).given(row_margin=margins)
    plus = tl.ElasticFace(form="cosine", plus=True, scale=10.0, reduction="none")(cosines, given)
    right = cosines.tensor().gather(1, y[:, None]).squeeze(1)
    place = right.argsort(descending=True).argsort()  # the largest cosine has rank 0 and the smallest margin
    ranked = tl.classes(y).given(row_margin=margins.sort().values[place])
    assert torch.allclose(plus, tl.ElasticFace(form="cosine", scale=10.0, reduction="none")(cosines, ranked))
    loss = tl.ElasticFace(seed=4)
    again = copy.deepcopy(loss)
    assert torch.equal(loss(cosines, y), again(cosines, y))
    assert not torch.equal(loss(cosines, y), tl.ElasticFace(seed=4)(cosines, y))


def test_elastic_plus_ranks_counted_rows_among_themselves() -> None:
    x, w, y = features()
    kept = torch.arange(B) % 3 != 0
    margins = torch.linspace(0.7, 0.2, B, dtype=torch.float64)
    loss = tl.ElasticFace(plus=True)
    first = loss(tl.cosine(x, w), tl.classes(y.masked_fill(~kept, -100)).given(row_margin=margins))
    assert torch.allclose(first, loss(tl.cosine(x[kept], w), tl.classes(y[kept]).given(row_margin=margins[kept])))


def test_adaface_statistics() -> None:
    x, w, y = features()
    loss = tl.AdaFace(momentum=0.25).double()
    loss(tl.cosine(x, w), y)
    norm = x.detach().norm(dim=1)
    assert torch.allclose(loss.norm_mean, 0.25 * norm.mean() + 0.75 * 20)
    assert torch.allclose(loss.norm_std, 0.25 * norm.std() + 0.75 * 100)
    held = loss.norm_mean.clone()
    loss(tl.cosine(x[:1], w), y[:1])
    assert torch.equal(loss.norm_mean, held)


def test_adaface_keeps_cosines_and_angles_away_from_their_ends_by_eps() -> None:
    cosines, norms = torch.tensor([[1.0, -1.0], [-1.0, 0.3]], dtype=torch.float64), torch.tensor([80.0, 5.0]).double()
    loss = tl.AdaFace(margin=0.4, concentration=0.5, eps=0.1, scale=5.0, reduction="none").double()
    targets = tl.classes(torch.tensor([0, 1])).given(query_norm=norms)
    shift = 0.4 * (0.5 * (norms - norms.mean()) / (norms.std() + 0.1)).clamp(-1, 1)
    kept = cosines.clamp(-0.9, 0.9)
    theta = (kept.diagonal().acos() - shift).clamp(0.1, math.pi - 0.1)
    z = 5.0 * (kept - torch.diag(kept.diagonal()) + torch.diag(theta.cos() - 0.4 - shift))
    assert torch.allclose(loss(cosines, targets), cross_entropy(z, torch.tensor([0, 1]), reduction="none"), rtol=1e-12)


def test_madacos_evaluates_without_margin() -> None:
    cosines, y = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.2, -0.3]], dtype=torch.float64), torch.tensor([0, 0])
    loss = tl.MadaCos(alpha=0.02).double()
    trained = loss(cosines, y)
    assert loss.current_margin > 0
    kept = loss.current_scale.clone(), loss.current_margin.clone()
    assert torch.allclose(loss.eval()(cosines, y), cross_entropy(kept[0] * cosines, y), rtol=1e-12)
    assert torch.equal(loss.current_margin, kept[1]) and not torch.allclose(loss(cosines, y), trained)


def test_magface_shows_its_terms_and_reaches_the_norm() -> None:
    x, w, y = features()
    loss = tl.MagFace(low_norm=0.5, high_norm=3.0)
    terms = loss.terms(tl.cosine(x, w), y)
    assert set(terms) == {"entropy", "norm"}
    assert torch.allclose(terms["entropy"] + terms["norm"], loss(tl.cosine(x, w), y))
    _, gradient, *_ = evaluated(loss, x, w, y)
    assert ((gradient * x).sum(1).abs() > 1e-6).any()  # along the feature: only the norm can feel it
    with pytest.raises(ValueError, match=r"high_norm: expected a number > low_norm"):
        tl.MagFace(low_norm=5.0, high_norm=5.0)


def test_sphereface_is_monotone_in_the_angle() -> None:
    theta = torch.linspace(0, math.pi, 500, dtype=torch.float64)
    for margin in (1.0, 1.7, 2.0, 4.0):
        scores = torch.stack([theta.cos(), torch.zeros_like(theta)], 1)
        rows = tl.SphereFaceR(margin=margin, scale=1.0, reduction="none")(scores, torch.zeros(500, dtype=torch.long))
        assert (rows.diff() > -1e-12).all()


def test_sphereface2_starts_balanced() -> None:
    """At cosine 0 the gradients of the right column and of all wrong ones together cancel."""
    loss = tl.SphereFace2(classes=C).double()
    assert loss.bias is not None
    torch.nn.init.constant_(loss.bias, loss.first_bias())
    value = loss(torch.zeros(1, C, dtype=torch.float64), torch.zeros(1, dtype=torch.long))
    (gradient,) = torch.autograd.grad(value, loss.bias)
    assert abs(float(gradient)) < 1e-12


def test_sub_centers_take_the_best_column() -> None:
    x, _, y = features()
    w = torch.randn(3 * C, D, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    best = tl.cosine(x, w).tensor().reshape(B, C, 3).amax(-1)
    assert torch.allclose(tl.SubCenterArcFace()(tl.cosine(x, w), y), tl.ArcFace()(best, y))
    assert torch.allclose(tl.SubCenterArcFace().predict(tl.cosine(x, w)), tl.ArcFace().predict(best))
    weighted = tl.classes(y, torch.linspace(1, 2, C))
    assert torch.allclose(tl.SubCenters(tl.CosFace())(tl.cosine(x, w), weighted), tl.CosFace()(best, weighted))
    with tl.memory_budget(dense=0, block=256):
        blocked = evaluated(tl.SubCenterArcFace(), x, w, y)
    for a, b in zip(blocked, evaluated(tl.SubCenterArcFace(), x, w, y), strict=True):
        assert torch.allclose(a, b)
    for inner in (tl.CurricularFace, tl.AdaCos, tl.MadaCos):
        pooled, plain = tl.SubCenters(inner()).double(), inner().double()
        assert torch.allclose(pooled(tl.cosine(x, w), y), plain(best, y))
        assert all(torch.allclose(a, b) for a, b in zip(pooled.buffers(), plain.buffers(), strict=True))
    holes = torch.tensor([[0.5, -math.inf, -math.inf, -math.inf, 0.2, 0.1]], dtype=torch.float64)
    assert torch.allclose(
        tl.SubCenters(tl.CrossEntropy(), centers=2)(holes, torch.tensor([0])),
        cross_entropy(torch.tensor([[0.5, 0.2]], dtype=torch.float64), torch.tensor([0])),
    )
    with pytest.raises(ValueError, match="scores: expected a multiple of 2 columns, got 21"):
        tl.SubCenters(tl.ArcFace(), centers=2)(tl.cosine(x, w), y)
    with pytest.raises(ValueError, match=r"targets: expected class indices in \[0, 7\), got 7"):
        tl.SubCenterArcFace()(tl.cosine(x, w), torch.full_like(y, C))


def test_unpg_keeps_pairs_inside_the_whiskers() -> None:
    x, w, y = features()
    loss = tl.UNPG(whisker=0.2)
    unit = normalize(x)
    values = torch.tensor([float((unit[i] @ unit[k]).detach()) for i in range(B) for k in range(i + 1, B) if y[i] != y[k]])
    ordered = values.sort().values
    n = len(ordered)
    low, high = ordered[int(0.25 * n)], ordered[int(0.75 * n)]
    slack = 0.2 * (high - low)
    kept = ordered[(ordered >= low - slack - 1e-9) & (ordered <= high + slack + 1e-9)]
    found = loss.pairs(tl.cosine(x, w), tl.classes(y)).sort().values
    assert torch.allclose(found.float(), kept)
    with pytest.raises(TypeError, match="UNPG compares features"):
        loss(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="loss: expected a margin softmax"):
        tl.UNPG(tl.CrossEntropy())


def test_what_one_vs_all_refuses() -> None:
    x, w, y = features()
    with pytest.raises(TypeError, match="loss: expected a margin softmax such as ArcFace"):
        tl.OneVsAll(tl.CrossEntropy(), classes=3)
    with pytest.raises(TypeError, match="classes: required"):
        tl.UniFace()
    with pytest.raises(ValueError, match="classes: expected an integer >= 2"):
        tl.SphereFace2(classes=1)
    with pytest.raises(ValueError, match="classes: expected one bias for each of 7 columns, got 5"):
        tl.UniFace(classes=5, biases="per_class")(tl.cosine(x, w), y)


def test_a_plain_matrix_needs_the_norms_given() -> None:
    x, w, y = features()
    cosines = tl.cosine(x, w).tensor().detach()
    for loss in (tl.AdaFace(), tl.MagFace(), tl.SphereFace()):
        with pytest.raises(TypeError, match=r"query_norm: plain scores hold no features"):
            loss(cosines, y)
        given = tl.classes(y).given(query_norm=x.norm(dim=1))
        assert torch.allclose(loss.eval()(cosines, given), loss(tl.cosine(x, w), y))


def test_sources_combine_in_a_loss_of_ones_own() -> None:
    """A margin from a field under the softmax, one-vs-all and in-batch negatives."""

    class Given(tl.MarginSoftmax):
        def transform(self, cosine: Tensor, targets: tl.Block, *, slack: Tensor, **fields: Tensor) -> Tensor:
            return cosine - slack

    x, w, y = features()
    targets = tl.classes(y).given(slack=torch.full((B,), 0.35, dtype=torch.float64))
    for wrap in (lambda m: m, tl.UNPG, lambda m: tl.OneVsAll(m, classes=C)):
        assert torch.allclose(wrap(Given())(tl.cosine(x, w), targets), wrap(tl.CosFace())(tl.cosine(x, w), y))
    with pytest.raises(TypeError, match="slack: Given needs it, one entry per row"):
        Given()(tl.cosine(x, w), y)


def test_regularizers_against_their_definitions() -> None:
    x, _, y = features()
    f = normalize(x)
    cosine = f @ f.T
    same = (y[:, None] == y[None, :]) & ~torch.eye(B, dtype=torch.bool)
    other = y[:, None] != y[None, :]
    right, wrong = cosine[same].mean(), cosine[other].mean()
    for absolute, expected in (
        ("none", wrong),
        ("mean", wrong.abs()),
        ("elementwise", cosine[other].abs().mean()),
    ):
        loss = tl.OrthogonalProjection(gamma=0.5, absolute=absolute)
        assert torch.allclose(loss(x, y), 1 - right + 0.5 * expected, rtol=1e-5)
        assert torch.autograd.gradcheck(lambda a, loss=loss: loss(a, y), (x,))
    assert torch.allclose(tl.OrthogonalProjection()(x[:1], y[:1]), torch.ones((), dtype=torch.float64))
    loss = tl.NegativeBlockContrast(classes=C, tau=2.0)
    shuffled = torch.randperm(B, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(loss(x, y), loss(x[shuffled], y[shuffled]))
    assert torch.autograd.gradcheck(lambda a: loss(a, y), (x,))
    alone = tl.NegativeBlockContrast(classes=C, eps=0.5)(x, torch.zeros_like(y))  # one class: only the 1 of its diagonal
    assert alone.item() == pytest.approx(math.log(1.5) / C)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        zero = torch.zeros(4, D, dtype=dtype, requires_grad=True)
        for regularizer in (loss, tl.OrthogonalProjection()):
            (gradient,) = torch.autograd.grad(regularizer(zero, torch.tensor([0, 0, 1, 2])), zero)
            assert torch.isfinite(gradient).all()
    with pytest.raises(ValueError, match="labels: expected integers"):
        loss(x, y.double())
