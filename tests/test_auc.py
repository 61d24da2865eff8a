"""AUC objectives: exactness of the shortcuts, the min-max form, and memories by example id."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchlosses as tl
from torchlosses.losses.auc import pairs
from torchlosses.losses.auc.pairs import PHI, phi_of

MAKERS: dict[str, Callable[[], tl.RowLoss]] = {
    **{f"pairwise_{phi}": lambda phi=phi: tl.PairwiseAUC(phi=phi) for phi in PHI},
    "univariate": lambda: tl.MacroAUC(kind="univariate"),
    "reweighted": lambda: tl.MacroAUC(kind="reweighted", phi="squared_hinge"),
    "margin_closed": lambda: tl.AUCMargin(auxiliaries="closed"),
    "margin_closed_v1": lambda: tl.AUCMargin(auxiliaries="closed", version="v1"),
    "margin_learned": lambda: tl.AUCMargin(classes=3),
    "partial_cvar": lambda: tl.PartialAUC(examples=50, classes=3, kind="cvar"),
    "partial_kl": lambda: tl.PartialAUC(examples=50, classes=3, kind="kl"),
    "partial_two_way": lambda: tl.PartialAUC(examples=50, classes=3, kind="two_way_kl", positive_temperature=0.5),
    "average_precision": lambda: tl.AveragePrecision(examples=50, classes=3),
}
REMEMBERING = ("partial_cvar", "partial_kl", "partial_two_way", "average_precision")


def batch(dtype: torch.dtype = torch.float64, n: int = 9) -> tuple[Tensor, tl.Targets]:
    torch.manual_seed(0)
    hot = torch.rand(n, 3) > 0.6
    hot[0], hot[1] = True, False
    return torch.randn(n, 3).to(dtype), tl.multi_label(hot).given(ids=torch.arange(n) + 7)


def slow(phi: str, s: Tensor, hot: Tensor, margin: float, slope: float) -> Tensor:
    return phi_of(phi, s[hot][:, None] - s[~hot][None, :], margin, slope).mean()


@pytest.mark.parametrize("phi", PHI)
@pytest.mark.parametrize(("margin", "slope"), [(1.0, 2.0), (0.3, 1.0), (0.0, 3.0)])
def test_pairs_equal_the_quadratic_form(phi: str, margin: float, slope: float) -> None:
    torch.manual_seed(1)
    s = (3 * torch.randn(40, dtype=torch.float64) + 100).requires_grad_()
    hot = torch.rand(40) > 0.7
    ours, wanted = tl.PairwiseAUC(phi=phi, margin=margin, slope=slope)(s, hot), slow(phi, s, hot, margin, slope)
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(torch.autograd.grad(ours, s), torch.autograd.grad(wanted, s))


@pytest.mark.parametrize("phi", ["hinge", "squared_hinge", "barrier_hinge"])
def test_ties_and_corners_have_the_gradient_of_relu(phi: str) -> None:
    s = torch.tensor([1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    hot = torch.tensor([1, 1, 0, 0, 1, 0, 0]).bool()
    ours, wanted = tl.PairwiseAUC(phi=phi)(s, hot), slow(phi, s, hot, 1.0, 2.0)
    torch.testing.assert_close(ours, wanted)
    if phi != "barrier_hinge":  # torch.maximum halves the gradient of equals
        torch.testing.assert_close(torch.autograd.grad(ours, s), torch.autograd.grad(wanted, s))


def test_formed_pairs_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    s, hot = torch.randn(60, dtype=torch.float64, requires_grad=True), torch.rand(60) > 0.5
    whole = torch.autograd.grad(tl.PairwiseAUC(phi="logistic")(s, hot), s)[0]
    monkeypatch.setattr(pairs, "CHUNK", 100)
    torch.testing.assert_close(torch.autograd.grad(tl.PairwiseAUC(phi="logistic")(s, hot), s)[0], whole)


@pytest.mark.parametrize("phi", ["hinge", "squared_hinge", "square"])
def test_a_million_scores(phi: str) -> None:
    """Exact value and gradient: a sample of the gradient against its definition, pair by pair."""
    torch.manual_seed(3)
    n = 1_000_000
    s, hot = torch.randn(n).requires_grad_(), torch.rand(n) > 0.99
    began = time.perf_counter()
    value = tl.PairwiseAUC(phi=phi)(s, hot)
    (gradient,) = torch.autograd.grad(value, s)
    assert time.perf_counter() - began < 30  # the quadratic form has 10^10 pairs
    with torch.no_grad():
        p, q = s[hot].double(), s[~hot].double()
        total = torch.stack([phi_of(phi, p[i] - q, 1.0, 2.0).mean() for i in range(0, len(p), 500)])
        spread = total.std() / len(total) ** 0.5
        assert (value - total.mean()).abs() < 6 * spread
        for i in hot.nonzero().flatten()[:5]:
            t = s[i].double() - q
            slope = {"hinge": -(t < 1).double(), "squared_hinge": -2 * (1 - t).relu(), "square": -2 * (1 - t)}[phi]
            torch.testing.assert_close(gradient[i].double(), slope.mean() / len(p), rtol=1e-5, atol=1e-12)
        for i in (~hot).nonzero().flatten()[:5]:
            t = p - s[i].double()
            slope = {"hinge": (t < 1).double(), "squared_hinge": 2 * (1 - t).relu(), "square": 2 * (1 - t)}[phi]
            torch.testing.assert_close(gradient[i].double(), slope.mean() / len(q), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_blocked_equals_dense(name: str) -> None:
    scores, targets = batch()
    scores.requires_grad_()
    loss = MAKERS[name]().double()
    found = []
    for limits in ({"dense": 1 << 30}, {"block": 64, "dense": 0}):
        own = copy.deepcopy(loss)
        with tl.memory_budget(**limits):
            value = own(scores, targets)
            value.backward()
        found.append((value.detach(), scores.grad, {n: t.detach() for n, t in own.state_dict().items()}))
        found[-1] += ([p.grad for p in own.parameters()],)
        scores.grad = None
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("name", MAKERS)
def test_columns_are_problems_of_their_own(name: str) -> None:
    scores, targets = batch()
    loss = MAKERS[name]().double()
    loss.reduction, loss._reduction = "none", tl.reductions.as_reduction("none")
    each = copy.deepcopy(loss)(scores, targets)
    mean = MAKERS[name]().double()(scores, targets)
    torch.testing.assert_close(each.mean(), mean)
    order = torch.randperm(9)
    torch.testing.assert_close(copy.deepcopy(loss)(scores[order], targets.at(order)), each)
    if name.startswith("pairwise"):
        alone = torch.stack([loss(scores[:, i], targets.rows["hot"][:, i]).squeeze() for i in range(3)])
        torch.testing.assert_close(each, alone)
        torch.testing.assert_close(loss(scores + 5.0, targets), each)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_finite(name: str, dtype: torch.dtype, size: float) -> None:
    scores, targets = batch(torch.float32)
    scores = (scores.clamp(-1, 1) * size).to(dtype).requires_grad_()
    loss = MAKERS[name]()
    for _ in range(2):
        value = loss(scores, targets)
        assert torch.isfinite(value)
    steep = 1e-38 if name.endswith("exponential") else 1e-6  # float16 ends at 65504
    (gradient,) = torch.autograd.grad(value * steep if size > 1 else value, scores)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", MAKERS)
def test_labels_of_one_kind(name: str) -> None:
    scores, targets = batch()
    hot = targets.rows["hot"].clone()
    hot[:, 0], hot[:, 1] = True, False
    scores.requires_grad_()
    loss = MAKERS[name]().double()
    value = loss(scores, tl.multi_label(hot).given(**targets.fields))
    (gradient,) = torch.autograd.grad(value, scores)
    assert torch.isfinite(value) and torch.isfinite(gradient).all()
    if name not in ("univariate", "reweighted", "average_precision"):
        assert not gradient[:, :2].any() and gradient[:, 2].any()
    nothing = MAKERS[name]().double()(scores, tl.multi_label(torch.zeros_like(hot)).given(**targets.fields))
    assert torch.isfinite(nothing) and nothing.requires_grad


@pytest.mark.parametrize("name", MAKERS)
def test_masked_cells_are_as_if_absent(name: str) -> None:
    scores, targets = batch()
    hot = targets.rows["hot"]
    mask = torch.ones_like(hot)
    mask[6:] = False
    part = MAKERS[name]().double()(scores[:6], targets.at(torch.arange(6)))
    masked = MAKERS[name]().double()(scores, tl.multi_label(hot, mask).given(**targets.fields))
    torch.testing.assert_close(masked, part)


@pytest.mark.parametrize("name", [n for n in MAKERS if n not in REMEMBERING])
def test_gradients(name: str) -> None:
    scores, targets = batch()
    loss = MAKERS[name]().double()
    assert torch.autograd.gradcheck(lambda s: loss(s, targets), scores.requires_grad_())


def test_gradients_of_frozen_memories() -> None:
    """The top share of negatives does not change within a small step, so the loss is differentiable as it stands."""
    scores, targets = batch()
    loss = tl.PartialAUC(examples=50, classes=3, kind="cvar").double().eval()
    loss.memory.fill_(0.5)
    assert torch.autograd.gradcheck(lambda s: loss(s, targets), scores.requires_grad_())


@pytest.mark.parametrize("phi", ["square", "squared_hinge", "logistic"])
def test_second_derivatives(phi: str) -> None:
    scores, targets = batch()
    loss = tl.PairwiseAUC(phi=phi)
    assert torch.autograd.gradgradcheck(lambda s: loss(s, targets), scores.requires_grad_())


def test_recipes_are_transposed() -> None:
    torch.manual_seed(4)
    h, w, b = torch.randn(9, 4), torch.randn(3, 4), torch.randn(3)
    _, targets = batch()
    loss = tl.PairwiseAUC()
    torch.testing.assert_close(loss(tl.linear(h, w, b), targets), loss(h @ w.T + b, targets))
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0, 1])
    hot = labels[:, None] == torch.arange(3)
    scores = h @ w.T
    torch.testing.assert_close(loss(scores, tl.same_label(labels, torch.arange(3))), loss(scores, tl.multi_label(hot)))
    torch.testing.assert_close(loss(scores, tl.classes(labels)), loss(scores, tl.multi_label(hot)))
    weight = torch.tensor([1.0, 2.0, 0.0])
    loss.reduction, loss._reduction = "none", tl.reductions.as_reduction("none")
    each = loss(scores, tl.classes(labels))
    weighted = tl.PairwiseAUC()(scores, tl.classes(labels, weight))
    torch.testing.assert_close(weighted, (each[0] + 2 * each[1]) / 3)
    part = loss(scores[:6], tl.classes(labels[:6]))
    torch.testing.assert_close(loss(scores, tl.classes(torch.cat([labels[:6], torch.full((3,), -100)]))), part)
    with pytest.raises(ValueError, match="class indices"):
        loss(scores, tl.classes(labels + 1))
    with pytest.raises(TypeError, match="teacher"):
        loss(scores, tl.teacher(scores))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_margin_form_at_its_optimum(version: str) -> None:
    """Descent in a and b and ascent in alpha by one optimizer reach the closed form, in value and gradient."""
    torch.manual_seed(5)
    scores, hot = torch.randn(12, dtype=torch.float64, requires_grad=True), torch.arange(12) < 4
    closed = tl.AUCMargin(version=version, auxiliaries="closed")(scores, hot)
    p = 1 / 3
    s_p, s_q = scores[hot], scores[~hot]
    explicit = s_p.var(correction=0) + s_q.var(correction=0) + (1 + s_q.mean() - s_p.mean()).relu().square()
    torch.testing.assert_close(closed, explicit * (p * (1 - p) if version == "v1" else 1))
    loss = tl.AUCMargin(version=version).double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.3)
    for _ in range(400):
        optimizer.zero_grad()
        loss(scores.detach(), hot).backward()
        optimizer.step()
    assert loss.alpha > 0
    value = loss(scores, hot)
    torch.testing.assert_close(value, closed, rtol=1e-6, atol=1e-6)
    ours, wanted = torch.autograd.grad(value, scores)[0], torch.autograd.grad(closed, scores)[0]
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)


def test_alpha_stays_above_zero() -> None:
    loss = tl.AUCMargin()
    loss.alpha.data.fill_(-1.0)
    scores, hot = torch.tensor([9.0, -9.0]), torch.tensor([1, 0])
    loss.eval()(scores, hot)
    assert loss.alpha.item() == -1.0
    loss.train()(scores, hot).backward()
    assert loss.alpha.item() == 0.0
    plain = tl.AUCMargin(ascent=False)
    plain(scores, hot).backward()
    torch.testing.assert_close(plain.alpha.grad, -loss.alpha.grad)


@pytest.mark.parametrize("name", REMEMBERING)
def test_memories(name: str) -> None:
    scores, targets = batch()
    loss = MAKERS[name]().double()
    before = copy.deepcopy(loss.state_dict())
    loss.eval()(scores, targets)
    torch.testing.assert_close(loss.state_dict(), before)  # evaluation moves nothing
    loss.eval()(scores, tl.multi_label(targets.rows["hot"]))  # and needs no ids
    loss.train()(scores, targets)
    after = loss.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    for key, buffer in after.items():
        if buffer.dim() == 2:  # only positives among the ids 7 .. 15 have moved
            moved = buffer != before[key]
            torch.testing.assert_close(moved[:, 7:16], targets.rows["hot"].T)
            assert not moved[:, :7].any() and not moved[:, 16:].any()
    restored = MAKERS[name]().double()
    restored.load_state_dict(loss.state_dict())
    torch.testing.assert_close(restored(scores, targets), loss(scores, targets))
    state = copy.deepcopy(loss.state_dict())
    loss.terms(scores, targets)
    torch.testing.assert_close(loss.state_dict(), state)


@pytest.mark.parametrize("name", REMEMBERING)
def test_gradient_accumulation(name: str) -> None:
    """Two forward passes before one backward pass: each gradient belongs to the memory its own call saw."""
    scores, targets = batch()
    first, second = torch.arange(5), torch.tensor([0, 1, 5, 6, 7, 8])
    scores.requires_grad_()

    def parts(loss: tl.RowLoss) -> list[Tensor]:
        return [loss(scores[i], targets.at(i)) for i in (first, second)]

    with tl.memory_budget(block=64, dense=0):
        together = MAKERS[name]().double()
        (gradient,) = torch.autograd.grad(torch.stack(parts(together)).sum(), scores)
    apart, summed = MAKERS[name]().double(), torch.zeros_like(scores)
    for i in (first, second):
        summed += torch.autograd.grad(apart(scores[i], targets.at(i)), scores)[0]
    torch.testing.assert_close(gradient, summed)
    torch.testing.assert_close(together.state_dict(), apart.state_dict())


def test_ids_and_shapes_are_checked() -> None:
    scores, targets = batch()
    hot = tl.multi_label(targets.rows["hot"])
    loss = tl.PartialAUC(examples=10, classes=3)
    with pytest.raises(ValueError, match=r"ids: expected integers in \[0, 10\), got 10 at row 3"):
        loss(scores, targets)
    with pytest.raises(TypeError, match="ids: PartialAUC needs it in training mode"):
        loss(scores, hot)
    with pytest.raises(TypeError, match="ids: expected an integer tensor"):
        loss(scores, hot.given(ids=torch.rand(9)))
    with pytest.raises(ValueError, match="ids"):
        loss(scores, hot.given(ids=torch.arange(4)))
    with pytest.raises(ValueError, match="expected classes=3 columns"):
        loss(scores[:, :2], tl.multi_label(targets.rows["hot"][:, :2]).given(ids=torch.arange(9)))
    with pytest.raises(ValueError, match="expected classes=1 columns"):
        tl.AUCMargin()(scores, hot)
    with pytest.raises(ValueError, match="margin: expected a number >= 0 with phi='barrier_hinge'"):
        tl.PairwiseAUC(phi="barrier_hinge", margin=-1.0)
    with pytest.raises(ValueError, match="prior"):
        tl.AUCMargin(prior=1.5)
    with pytest.raises(ValueError, match="examples"):
        tl.PartialAUC(examples=0)
    with pytest.raises(ValueError, match="targets: expected"):
        tl.PairwiseAUC()(scores[:, 0], torch.ones(4))


def test_cvar_keeps_the_hardest_negatives() -> None:
    """With u at the quantile, the loss is the mean over the top share beta of the negatives."""
    torch.manual_seed(6)
    s, hot = torch.randn(11, dtype=torch.float64), torch.arange(11) < 1
    loss = tl.PartialAUC(examples=11, kind="cvar", beta=0.35, eta=0.02).double()
    targets = tl.multi_label(hot[:, None]).given(ids=torch.arange(11))
    for _ in range(800):
        u = loss.memory[0, 0].clone()
        value = loss(s[:, None], targets)
    each = (1 - (s[0] - s[1:])).relu().square().sort(descending=True).values
    chosen = int((each > u).sum())
    assert chosen in (3, 4)  # u settles at the value of the fourth of ten
    torch.testing.assert_close(value, each[:chosen].sum() / 10 / 0.35)
    assert each[4] < u < each[2]
