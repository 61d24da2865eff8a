"""What robust, normalized, tempered, squared and confidence objectives promise: special cases, extremes, state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchlosses as tl

Build = Callable[..., tl.RowLoss]

# objectives of a few numbers of the row, so that they cost what cross-entropy costs
STREAMED: dict[str, Build] = {
    "encouraging": tl.Encouraging,
    "encouraging 1": lambda **k: tl.Encouraging(log_end=1.0, **k),
    "coverage": tl.DirectCoverage,
    "coverage 4096": lambda **k: tl.DirectCoverage(attempts=4096, **k),
    "symmetric": tl.SymmetricCrossEntropy,
    "agce": tl.AsymmetricGCE,
    "agce 0.3": lambda **k: tl.AsymmetricGCE(a=0.2, q=0.3, **k),
    "aul": tl.AsymmetricUnhinged,
    "ael": tl.AsymmetricExponential,
    "truncated": lambda **k: tl.TruncatedGCE(k=0.2, **k),
    "jensen-shannon": tl.JensenShannon,
    "nce": tl.NormalizedCrossEntropy,
    "nmae": tl.NormalizedMeanAbsoluteError,
    "active passive": tl.ActivePassive,
    "nfl": tl.NormalizedFocal,
    "nfl 2": lambda **k: tl.NormalizedFocal(gamma=2.0, **k),
    "nfl detached": lambda **k: tl.NormalizedFocal(detach_weight=True, **k),
    "ngce": tl.NormalizedGeneralizedCrossEntropy,
    "active focal": lambda **k: tl.ActivePassive(active="focal", passive="reverse", **k),
    "robust log": tl.RobustLog,
    "confidence penalty": tl.ConfidencePenalty,
}
SHIFTING: dict[str, Build] = {"squentropy": tl.Squentropy, "rescaled": tl.RescaledSquare, "logit norm": tl.LogitNorm}
ROWS: dict[str, Build] = {
    **STREAMED,
    **SHIFTING,
    "bi-tempered": tl.BiTempered,
    "bi-tempered 0.7 1": lambda **k: tl.BiTempered(t1=0.7, t2=1.0, label_smoothing=0.1, **k),
    "bi-tempered 0.9 0.8": lambda **k: tl.BiTempered(t1=0.9, t2=0.8, **k),
    "bi-tempered 1.2 2": lambda **k: tl.BiTempered(t1=1.2, t2=2.0, **k),
    "correctness": tl.CorrectnessAware,
}
KINKED = ("truncated", "encouraging 1")  # constant beyond a threshold
INDEX_ONLY = ("squentropy", "rescaled", "robust log", "correctness")
EXTREMES = [[1e4, -1e4, 0.0, 1e4, -1e4], [-1e4, 1e4, 1e4, 1e4, 1e4], [0.0] * 5, [1e4] * 5, [-1e4] * 5, [80.0, -80, 0, 0, 0]]


def batch(rows: int = 12, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, 5, generator=generator, dtype=torch.float64) * scale
    return scores, torch.randint(5, (rows,), generator=generator)


def head(rows: int = 23) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    w = torch.randn(7, 4, generator=generator, dtype=torch.float64) * 2
    return x, w, torch.randint(7, (rows,), generator=generator)


def same(a: Callable[[Tensor], Tensor], b: Callable[[Tensor], Tensor], scores: Tensor, tolerance: float = 1e-9) -> None:
    """Same value and gradient."""
    s = scores.clone().requires_grad_()
    found = [(v.detach(), *torch.autograd.grad(v, s)) for v in (a(s), b(s))]
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


# --- special cases ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("special", "general"),
    [
        (tl.CrossEntropy(), tl.SymmetricCrossEntropy(alpha=1.0, beta=0.0)),
        (tl.MeanAbsoluteError(), tl.SymmetricCrossEntropy(alpha=0.0, floor=math.exp(-1))),
        (tl.MeanAbsoluteError(), tl.AsymmetricGCE(a=0.3, q=1.0)),
        (tl.MeanAbsoluteError(), tl.AsymmetricUnhinged(a=3.0, q=1.0)),
        (tl.GeneralizedCrossEntropy(), tl.TruncatedGCE(k=0.0)),
        (tl.CrossEntropy(), tl.BiTempered(t1=1.0, t2=1.0)),
        (tl.CrossEntropy(), tl.DirectCoverage(attempts=1)),
        (tl.CrossEntropy(), tl.ConfidencePenalty(beta=0.0)),
        (tl.NormalizedCrossEntropy(), tl.NormalizedFocal(gamma=0.0)),
        (tl.NormalizedMeanAbsoluteError(), tl.NormalizedGeneralizedCrossEntropy(q=1.0)),
        (tl.NormalizedCrossEntropy(), tl.ActivePassive(beta=0.0)),
        (tl.NormalizedGeneralizedCrossEntropy(q=0.3), tl.ActivePassive(active="generalized", q=0.3, beta=0.0)),
    ],
)
@pytest.mark.parametrize("soft", [False, True])
def test_special_cases(special: tl.RowLoss, general: tl.RowLoss, soft: bool) -> None:
    scores, index = batch()
    targets = batch(seed=1)[0].softmax(-1) if soft else index
    if isinstance(general, tl.BiTempered) and soft:  # a Bregman divergence: the entropy of the targets is taken off
        shown = torch.nn.functional.one_hot(index, 5).double()
        same(lambda s: special(s, index), lambda s: general(s, shown), scores)
        return
    same(lambda s: special(s, targets), lambda s: general(s, targets), scores)


def test_bi_tempered_takes_the_entropy_of_soft_targets_off() -> None:
    scores, _ = batch()
    q = batch(seed=1)[0].softmax(-1)
    entropy = -(q * q.log()).sum(-1).mean()
    torch.testing.assert_close(tl.BiTempered(t1=1.0, t2=1.0)(scores, q), tl.CrossEntropy()(scores, q) - entropy)
    spread = -(0.8 * math.log(0.8) + 0.2 * math.log(0.05))  # over the wrong classes only: 0.25 over all of five
    smoothed = tl.CrossEntropy(label_smoothing=0.25)(scores, q.argmax(-1)) - spread
    torch.testing.assert_close(tl.BiTempered(t1=1.0, t2=1.0, label_smoothing=0.2)(scores, q.argmax(-1)), smoothed)
    for t1, t2 in ((0.7, 1.3), (0.5, 0.8), (1.3, 1.0)):  # zero exactly at the targets
        loss = tl.BiTempered(t1=t1, t2=t2)
        p = loss.predict(scores / 10)
        s = (scores / 10).requires_grad_()
        value = loss(s, p.detach())
        torch.testing.assert_close(value.detach(), torch.tensor(0.0, dtype=torch.float64), rtol=0, atol=1e-12)
        assert torch.autograd.grad(value, s)[0].abs().max() < 1e-9


def test_jensen_shannon_lies_between_cross_entropy_and_mae() -> None:
    scores, index = batch(scale=1.0)
    one_hot = torch.nn.functional.one_hot(index, 5).double()
    same(lambda s: tl.JensenShannon(pi=1e-7)(s, index), lambda s: tl.CrossEntropy()(s, index), scores, 1e-4)
    same(lambda s: tl.JensenShannon(pi=1 - 1e-12)(s, index), lambda s: tl.MeanAbsoluteError()(s, index), scores, 0.05)
    for pi in (0.2, 0.5, 0.9):
        loss = tl.JensenShannon(pi=pi)
        same(lambda s, loss=loss: loss(s, index), lambda s, loss=loss: loss(s, one_hot), scores)
        q = batch(seed=1)[0].softmax(-1)
        p = scores.softmax(-1)
        m = pi * q + (1 - pi) * p
        parts = pi * (q * (q / m).log()).sum(-1) + (1 - pi) * (p * (p / m).log()).sum(-1)
        torch.testing.assert_close(loss(scores, q), parts.mean() / -((1 - pi) * math.log(1 - pi)))


@pytest.mark.parametrize(
    ("name", "total"), [("nce", 1.0), ("nfl", 1.0), ("ngce", 1.0), ("nmae", 1.0), ("robust log", 5 * math.log(2))]
)
def test_symmetric_losses_have_a_constant_sum_over_labels(name: str, total: float) -> None:
    scores, _ = batch()
    loss = ROWS[name](reduction="none")
    rows = sum(loss(scores, torch.full((12,), k)) for k in range(5))
    torch.testing.assert_close(rows, torch.full((12,), total, dtype=torch.float64))


def test_active_passive_is_the_sum_of_its_parts() -> None:
    scores, index = batch()
    q = batch(seed=1)[0].softmax(-1)
    for targets in (index, q):
        same(
            lambda s, t=targets: tl.ActivePassive(active="focal", passive="reverse", alpha=3.0, beta=0.5)(s, t),
            lambda s, t=targets: 3 * tl.NormalizedFocal()(s, t) - 0.5 * math.log(1e-4) * tl.MeanAbsoluteError()(s, t),
            scores,
        )


def test_encouraging_gradient_does_not_fade() -> None:
    scores, index = batch(scale=1.0)
    s = scores.requires_grad_()
    (gradient,) = torch.autograd.grad(tl.Encouraging(log_end=0.75, reduction="sum")(s, index), s)
    p = scores.softmax(-1).gather(1, index[:, None]).squeeze(1)
    at_target = gradient.gather(1, index[:, None]).squeeze(1)
    torch.testing.assert_close(at_target[p <= 0.75], -torch.ones_like(p)[p <= 0.75])
    beyond = -(1 + p / 0.25) * (1 - p)
    torch.testing.assert_close(at_target[p > 0.75], beyond[p > 0.75])


@pytest.mark.parametrize("attempts", [1, 2, 16, 10_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_direct_coverage_of_whole_answers(attempts: int, dtype: torch.dtype) -> None:
    log_p = torch.tensor([-1e4, -200.0, -40.0, -16.0, -14.9, -9.0, -1.0, -0.01, -1e-5, 0.0], dtype=dtype, requires_grad=True)
    loss = tl.DirectCoverage(attempts=attempts, reduction="none")
    value = loss(log_p)
    (gradient,) = torch.autograd.grad(value.sum(), log_p)
    exact = log_p.detach().double()
    missed = -attempts * torch.log1p(-exact.exp()).clamp(min=-1e30)
    wanted = torch.where(exact < -30, -(exact + math.log(attempts)), -(-(-missed).expm1()).log())
    # the paper's factor on the gradient of cross-entropy
    factor = attempts * exact.exp() * torch.exp((attempts - 1) * torch.log1p(-exact.exp())) / -(-missed).expm1()
    factor = torch.where(exact < -30, 1.0, factor.nan_to_num(float(attempts == 1)))
    torch.testing.assert_close(value.detach().double(), wanted, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(-gradient.double(), factor, rtol=2e-4 if dtype == torch.float32 else 1e-6, atol=1e-6)
    torch.testing.assert_close(tl.DirectCoverage(attempts=attempts)(log_p), value.mean())
    assert loss(log_p.detach().reshape(2, 5)).shape == (2, 5)


def test_direct_coverage_of_whole_answers_is_that_of_their_probability() -> None:
    scores, index = batch()
    loss = tl.DirectCoverage(attempts=8)
    log_p = scores.log_softmax(-1).gather(1, index[:, None]).squeeze(1)
    torch.testing.assert_close(loss(log_p), loss(scores, index))


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.7])
def test_adversarial_part(tau: float) -> None:
    scores, index = batch()
    other = batch(seed=3)[0]
    targets = tl.classes(index)
    plain = tl.SmoothAdversarialCompSum(tau=tau, nu=0.0)
    same(lambda s: plain(s, targets, adversarial=other), lambda s: tl.CompSum(tau=tau)(s, targets), scores)
    loss = tl.SmoothAdversarialCompSum(tau=tau, rho=2.0, nu=0.7)
    a, b = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    value = loss(a, targets, adversarial=b)  # where both are equal the norm has gradient 0
    value.backward()
    torch.testing.assert_close(value, tl.CompSum(tau=tau)(scores / 2, targets))
    assert b.grad is not None and not b.grad.any()
    gap = [s.gather(1, index[:, None]) - s for s in (scores, other)]
    norm = (gap[0] - gap[1]).norm(dim=1).mean()
    found = loss(scores, targets, adversarial=other) - tl.CompSum(tau=tau)(scores / 2, targets)
    torch.testing.assert_close(found, 0.7 * norm)


def test_correctness_is_decided_by_the_first_of_equals() -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0]] * 2, requires_grad=True)
    rows = tl.CorrectnessAware(reduction="none")(scores, torch.tensor([0, 1]))
    p = scores.detach().softmax(-1)[0, 0]
    torch.testing.assert_close(rows.detach(), torch.stack([(p - 1) ** 2, p**2]))
    x, index = batch()
    hot = torch.linspace(0.5, 3, 12, dtype=torch.float64)
    found = tl.CorrectnessAware(reduction="none")(x, tl.classes(index).given(temperature=hot))
    confidence, answer = (x / hot[:, None]).softmax(-1).max(-1)
    torch.testing.assert_close(found, (confidence - (answer == index).double()) ** 2)


@pytest.mark.parametrize(("c", "alpha"), [(0.05, 2.0), (0.3, 0.7)])
def test_rejection_is_calibrated(c: float, alpha: float) -> None:
    """Where an error has probability c, the best score is 0."""
    loss = tl.RejectionSurrogate(c=c, alpha=alpha, reduction="none")
    r = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    rows = loss(r, torch.tensor([1, -1]))
    (gradient,) = torch.autograd.grad(rows, r, torch.tensor([1 - c, c], dtype=torch.float64))
    torch.testing.assert_close(gradient.sum(), torch.tensor(0.0, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(loss(r.detach()[:, None], tl.desirable(torch.tensor([True, False]))), rows.detach())
    torch.testing.assert_close(loss.predict(r.detach()), r.detach())


def test_logit_norm_does_not_gain_from_larger_scores() -> None:
    scores, index = batch()
    loss = tl.LogitNorm(temperature=0.5, eps=0.0)
    torch.testing.assert_close(loss(scores, index), loss(scores * 7, index))
    unit = scores / scores.norm(dim=1, keepdim=True)
    torch.testing.assert_close(loss(scores, index), tl.CrossEntropy()(unit / 0.5, index))


# --- the tempered softmax --------------------------------------------------------------------------------------


@pytest.mark.parametrize("t2", [0.3, 0.8, 1.0, 1.2, 2.0, 4.0])
@pytest.mark.parametrize("columns", [1, 2, 5, 3000])
def test_tempered_softmax_is_a_distribution(t2: float, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, columns, generator=generator, dtype=torch.float64) * torch.logspace(-3, 4, 6)[:, None]
    scores[0] = 7.0
    p = tl.BiTempered(t1=0.5, t2=t2).predict(scores)
    torch.testing.assert_close(p.sum(-1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(p[0], torch.full((columns,), 1 / columns, dtype=torch.float64))
    power = (p[1:] ** (1 - t2) - 1) / (1 - t2) if t2 != 1 else p[1:].log()  # log_t p = s - normalizer on the support
    level = torch.where(p[1:] > 0, power - scores[1:], 0.0)
    first = level.gather(1, p[1:].argmax(-1, keepdim=True))
    off = torch.where(p[1:] > 1e-300, (level - first).abs() / (1 + power.abs() + scores[1:].abs()), 0.0)
    assert off.nan_to_num(0.0, posinf=0.0).max() < 1e-9


def test_tempered_softmax_leaves_masked_columns_out() -> None:
    scores, _ = batch()
    shown = scores.clone()
    shown[:, [1, 3]] = -torch.inf
    p = tl.BiTempered().predict(shown)
    assert not p[:, [1, 3]].any()
    torch.testing.assert_close(p[:, [0, 2, 4]], tl.BiTempered().predict(scores[:, [0, 2, 4]]))


@pytest.mark.parametrize(("t1", "t2"), [(0.8, 1.4), (0.7, 1.0), (1.0, 1.3), (0.4, 0.8)])
def test_bi_tempered_has_second_derivatives(t1: float, t2: float) -> None:
    scores, _ = batch(3, scale=1.0)
    q = batch(3, seed=2)[0].softmax(-1).requires_grad_()
    loss = tl.BiTempered(t1=t1, t2=t2)
    assert torch.autograd.gradcheck(lambda s, q: loss(s, q), (scores.requires_grad_(), q))
    assert torch.autograd.gradgradcheck(lambda s, q: loss(s, q), (scores, q))


# --- every row loss --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_gradient_agrees_with_differences(name: str) -> None:
    scores, index = batch(6)
    if "detached" in name:
        pytest.skip("its gradient is not that of its value")
    assert torch.autograd.gradcheck(lambda s: ROWS[name](reduction="none")(s, index), scores.requires_grad_())


@pytest.mark.parametrize("name", [n for n in ROWS if n not in SHIFTING])
def test_a_shift_of_the_row_changes_nothing(name: str) -> None:
    scores, index = batch()
    loss = ROWS[name](reduction="none")
    torch.testing.assert_close(loss(scores, index), loss(scores + torch.randn(12, 1, dtype=torch.float64), index))


@pytest.mark.parametrize("name", ROWS)
def test_columns_may_be_permuted(name: str) -> None:
    scores, index = batch()
    order = torch.tensor([3, 1, 4, 0, 2])
    loss = ROWS[name](reduction="none")
    torch.testing.assert_close(loss(scores, index), loss(scores[:, order], order.argsort()[index]))


@pytest.mark.parametrize("name", ROWS)
def test_blocked_equals_dense(name: str) -> None:
    x, w, y = head()
    y[3] = -100
    targets = tl.classes(y, weight=torch.rand(7, dtype=torch.float64) + 0.5)
    found = []
    for limits in ({"dense": 1 << 30}, {"dense": 0, "block": 512}):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        with tl.memory_budget(**limits):
            value = ROWS[name]()(tl.linear(a, b), targets)
            found.append((value.detach(), *torch.autograd.grad(value, (a, b))))
    for dense, blocked in zip(*found, strict=True):
        torch.testing.assert_close(dense, blocked)


@pytest.mark.parametrize("name", [*STREAMED, "squentropy", "pruned", "bias"])
def test_these_stream(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their block rule is never asked."""
    x, w, y = head()
    build = {**ROWS, "pruned": lambda: tl.PrunedGCE(examples=23), "bias": tl.BiasLoss}[name]
    loss = build().double()

    def refuse(*arguments: object, **fields: object) -> None:
        raise AssertionError("the block rule was asked")

    monkeypatch.setattr(loss, "_evaluate", refuse)
    with tl.memory_budget(dense=0, block=512):
        targets = tl.classes(y).given(ids=torch.arange(23), features=x)
        loss(tl.linear(x.requires_grad_(), w.requires_grad_()), targets).backward()
    assert w.grad is not None and w.grad.any()


@pytest.mark.parametrize("limits", [{"dense": 1 << 30}, {"dense": 0, "block": 256}])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", ROWS)
def test_extreme_scores_are_finite(name: str, soft: bool, limits: dict[str, int]) -> None:
    if soft and name in INDEX_ONLY:
        pytest.skip("a class index only")
    scores = torch.tensor(EXTREMES * 2, requires_grad=True)
    index = torch.tensor([0] * 6 + [1] * 6)
    targets: tl.Targets | Tensor = index
    if soft:
        targets = torch.nn.functional.one_hot(index, 5).float() * 0.8 + 0.04
    with tl.memory_budget(**limits):
        value = ROWS[name]()(scores, targets)
    value.backward()
    assert torch.isfinite(value) and scores.grad is not None and torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ROWS)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    x, w, y = head()
    for scale in (1.0, 60.0):
        a, b = (x * scale).to(dtype).requires_grad_(), w.to(dtype).requires_grad_()
        value = ROWS[name]()(tl.linear(a, b), y)
        assert value.dtype == torch.float32
        value.backward()
        assert torch.isfinite(value)
        assert all(t.grad is not None and t.grad.dtype == dtype and torch.isfinite(t.grad).all() for t in (a, b))


@pytest.mark.parametrize("limits", [{"dense": 1 << 30}, {"dense": 0, "block": 256}])
@pytest.mark.parametrize("name", ROWS)
def test_one_column(name: str, limits: dict[str, int]) -> None:
    x, w = torch.randn(3, 2, requires_grad=True), torch.randn(1, 2, requires_grad=True)
    with tl.memory_budget(**limits):
        value = ROWS[name]()(tl.linear(x, w), torch.zeros(3, dtype=torch.long))
    value.backward()
    assert torch.isfinite(value) and all(t.grad is not None and torch.isfinite(t.grad).all() for t in (x, w))


@pytest.mark.parametrize("name", ROWS)
def test_ignored_rows_do_not_count(name: str) -> None:
    scores, index = batch()
    some = index.clone()
    some[torch.tensor([2, 7])] = -100
    loss = ROWS[name]()
    torch.testing.assert_close(loss(scores, some), loss(scores[some >= 0], index[some >= 0]))
    s = scores.clone().requires_grad_()
    none = loss(s, torch.full((12,), -100))
    none.backward()
    assert none == 0 and s.grad is not None and not s.grad.any()


@pytest.mark.parametrize("name", [n for n in ROWS if n not in INDEX_ONLY])
def test_masked_columns_are_as_if_absent(name: str) -> None:
    scores, _ = batch()
    hot = torch.zeros(12, 5, dtype=torch.bool)
    hot[:, :2] = torch.tensor([True, False])
    mask = torch.ones(12, 5, dtype=torch.bool)
    mask[:, 2] = mask[:, 4] = False
    kept = [0, 1, 3]
    loss = ROWS[name](reduction="none")
    s = scores.clone().requires_grad_()
    found = loss(s, tl.multi_label(hot, mask))
    torch.testing.assert_close(found, loss(scores[:, kept], tl.multi_label(hot[:, kept])))
    (gradient,) = torch.autograd.grad(found.sum(), s)
    assert not gradient[:, [2, 4]].any()


@pytest.mark.parametrize("name", INDEX_ONLY)
def test_infinitely_low_scores_are_as_if_absent(name: str) -> None:
    scores, _ = batch()
    shown = scores.clone()
    shown[:, [2, 4]] = -torch.inf
    shown.requires_grad_()
    loss = ROWS[name](reduction="none")
    found = loss(shown, torch.ones(12, dtype=torch.long))
    torch.testing.assert_close(found, loss(scores[:, [0, 1, 3]], torch.ones(12, dtype=torch.long)))
    (gradient,) = torch.autograd.grad(found.sum(), shown)
    assert torch.isfinite(gradient).all() and not gradient[:, [2, 4]].any()


@pytest.mark.parametrize("name", [n for n in ROWS if n not in (*INDEX_ONLY, *KINKED, "nfl detached")])
def test_soft_gradient_agrees_with_differences(name: str) -> None:
    scores, _ = batch(3, scale=1.0)
    q = batch(3, seed=2)[0].softmax(-1).requires_grad_()
    loss = ROWS[name]()
    assert torch.autograd.gradcheck(lambda s, q: loss(s, q), (scores.requires_grad_(), q))


@pytest.mark.parametrize("name", ["nfl", "encouraging", "bi-tempered", "robust log"])
def test_rows_may_be_mapped(name: str) -> None:
    scores, index = batch(4)
    loss = ROWS[name]()

    def each(s: Tensor) -> Tensor:
        return torch.func.vmap(lambda row, y: loss(row[None], y[None]))(s, index).mean()

    same(each, lambda s: loss(s, index), scores)


# --- state -----------------------------------------------------------------------------------------------------


def test_pruning_is_remembered_by_example() -> None:
    scores, index = batch(6)
    index[:3] = scores[:3].argmax(1)
    p = scores.softmax(-1).gather(1, index[:, None]).squeeze(1)
    ids = torch.tensor([5, 0, 9, 3, 4, 7])
    targets = tl.classes(index).given(ids=ids)
    loss = tl.PrunedGCE(examples=10, k=0.3, reduction="none")
    assert loss.kept.all()
    loss.prune(scores, targets)
    wanted = torch.ones(10, dtype=torch.bool)
    wanted[ids] = p > 0.3
    assert torch.equal(loss.kept, wanted) and 0 < wanted[ids].sum() < 6
    s = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)  # other scores: the decision stays
    rows = loss(s, targets)
    rows.sum().backward()
    plain = tl.GeneralizedCrossEntropy(reduction="none")(s, index)
    torch.testing.assert_close(rows, torch.where(p > 0.3, plain - (1 - 0.3**0.7) / 0.7, 0.0))
    assert s.grad is not None and torch.equal(s.grad.any(1), p > 0.3)
    other = tl.PrunedGCE(examples=10, k=0.3, reduction="none")
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other(s, targets), rows)
    assert (loss.eval()(s, index) == plain - (1 - 0.3**0.7) / 0.7).all()


def test_pruning_leaves_ignored_rows_alone() -> None:
    loss = tl.PrunedGCE(examples=3, k=0.9)
    loss.prune(torch.zeros(3, 5), tl.classes(torch.tensor([0, -100, 1])).given(ids=torch.arange(3)))
    assert loss.kept.tolist() == [False, True, False]


def test_bias_loss_remembers_the_least_variance() -> None:
    scores, index = batch(6)
    maps = torch.rand(6, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = tl.classes(index)
    loss = tl.BiasLoss(reduction="none").double()
    ce = tl.CrossEntropy(reduction="none")(scores, index)

    def wanted(maps: Tensor, low: Tensor) -> Tensor:
        v = maps.flatten(1).var(1)
        return ((0.3 * (v - low) / (v.max() - v.min())).exp() - 0.3) * ce

    variance = maps.flatten(1).var(1)
    loss.terms(scores, targets.given(features=maps / 9))
    loss.eval()(scores, targets.given(features=maps / 9))
    assert torch.isinf(loss.least_variance)
    loss.train()
    torch.testing.assert_close(loss(scores, targets.given(features=maps)), wanted(maps, variance.min()))
    torch.testing.assert_close(loss(scores, targets.given(features=maps * 2)), wanted(maps * 2, variance.min()))
    again = copy.deepcopy(loss)
    loss.normalization = "batch"
    torch.testing.assert_close(loss(scores, targets.given(features=maps * 2)), wanted(maps * 2, 4 * variance.min()))
    torch.testing.assert_close(again.least_variance, variance.min())


def test_bias_loss_at_equal_variances_and_ignored_rows() -> None:
    scores, index = batch(6)
    same_maps = torch.tensor([[0.0, 1.0]]).expand(6, 2)
    found = tl.BiasLoss(beta=0.25)(scores, tl.classes(index).given(features=same_maps))
    torch.testing.assert_close(found, 0.75 * tl.CrossEntropy()(scores, index))
    hidden = index.clone()
    hidden[0] = -100
    maps = torch.arange(12.0).reshape(6, 2).square()
    maps[0] *= 1e6  # an ignored row has no part in the statistics
    some = tl.BiasLoss()(scores, tl.classes(hidden).given(features=maps))
    torch.testing.assert_close(some, tl.BiasLoss()(scores[1:], tl.classes(index[1:]).given(features=maps[1:])))
    none = tl.BiasLoss()(scores, tl.classes(torch.full((6,), -100)).given(features=maps))
    assert none == 0


# --- the random ensemble ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-1.0, -0.3, 0.0, 1e-9, 0.5, 1.0])
def test_ensemble_gradient_is_that_of_a_convex_loss(power: float) -> None:
    generator = torch.Generator().manual_seed(0)
    s = (torch.randn(200, generator=generator, dtype=torch.float64) * 3).requires_grad_()
    t = torch.rand(200, generator=generator) > 0.4
    value = tl.EnsLoss(power=power, seed=1)(s, t)
    (gradient,) = torch.autograd.grad(value, s)
    sign = torch.where(t, 1.0, -1.0)
    margin, slope = (s * sign).detach(), gradient * sign * 200
    assert (slope < 0).all() and (slope >= -1 - 1e-5).all() and torch.isfinite(slope).all()
    order = margin.argsort()
    assert (slope[order].diff() >= -1e-12).all()


def test_ensemble_draws_are_reproducible_and_saved() -> None:
    s, t = torch.randn(20), torch.arange(20) % 2
    loss, other = tl.EnsLoss(seed=3), tl.EnsLoss(seed=3)
    first = loss(s, t)
    assert first == other(s, t) and first != loss(s, t)
    loss.redraw()
    assert loss.drawn_power != 0
    other.load_state_dict(loss.state_dict())
    assert loss(s, t) == other(s, t)
    a, b = loss.eval()(s, t), loss(s, t)
    assert a == b


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_ensemble_and_rejection_at_extremes(dtype: torch.dtype) -> None:
    s = torch.tensor([1e4, -1e4, 0.0, 80.0, -80.0, 3.0], dtype=dtype, requires_grad=True)
    t = torch.tensor([1, 0, 1, 0, 1, 1])
    for value in (
        tl.EnsLoss(power=-1.0)(s, t),
        tl.EnsLoss(power=1.0)(s, t, normals=torch.tensor([-9.0, 9, 0, 0, 1, 2])),
        tl.RejectionSurrogate()(s, t),
    ):
        (gradient,) = torch.autograd.grad(value, s)
        assert torch.isfinite(value)
        if dtype != torch.float16:  # the exponentials' slopes are beyond its largest number
            assert torch.isfinite(gradient).all()
    assert tl.EnsLoss()(s[:0], t[:0]) == 0


# --- wrong inputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tl.Encouraging(log_end=0.0), ValueError, r"log_end: expected a number in \(0, 1\]"),
        (lambda: tl.AsymmetricUnhinged(a=1.0), ValueError, r"a: expected a number in \(1"),
        (lambda: tl.BiTempered(t1=1.0, t2=0.8), ValueError, "t1: expected a number < 1 with t2 < 1"),
        (lambda: tl.JensenShannon(pi=1.0), ValueError, r"pi: expected a number in \(0, 1\)"),
        (lambda: tl.DirectCoverage(attempts=0), ValueError, "attempts: expected an integer"),
        (lambda: tl.DirectCoverage()(torch.zeros(3, dtype=torch.long)), TypeError, "scores: without targets expected"),
        (lambda: tl.RejectionSurrogate(c=0.5), ValueError, r"c: expected a number in \(0, 0.5\)"),
        (lambda: tl.RejectionSurrogate()(torch.zeros(3, 2), torch.ones(3)), ValueError, "scores: expected one per row"),
        (lambda: tl.BiasLoss()(*batch()), TypeError, "features: BiasLoss needs"),
        (
            lambda: tl.BiasLoss()(batch()[0], tl.classes(batch()[1]).given(features=torch.ones(12))),
            ValueError,
            "features: expected",
        ),
        (lambda: tl.PrunedGCE(examples=0), ValueError, "examples: expected an integer >= 1"),
        (lambda: tl.PrunedGCE(examples=9)(*batch()), TypeError, r"ids: PrunedGCE needs it.*targets.given\(ids=tensor\)"),
        (
            lambda: tl.PrunedGCE(examples=9)(batch()[0], tl.classes(batch()[1]).given(ids=torch.arange(12))),
            ValueError,
            r"ids: expected integers in \[0, 9\), got 9 at row 9",
        ),
        (lambda: tl.SmoothAdversarialCompSum()(*batch()), TypeError, "adversarial: SmoothAdversarialCompSum needs it"),
        (
            lambda: tl.SmoothAdversarialCompSum()(batch()[0], tl.classes(batch()[1]).given(adversarial=torch.zeros(12, 4))),
            ValueError,
            r"adversarial: expected \(rows, 5\)",
        ),
        (lambda: tl.EnsLoss()(torch.zeros(3), torch.zeros(4)), ValueError, "targets: expected 3 entries"),
        (lambda: tl.Squentropy()(batch()[0], batch()[0].softmax(-1)), TypeError, "targets: Squentropy expected one of"),
    ],
)
def test_wrong_inputs_are_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
