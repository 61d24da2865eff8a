"""Class sampling: the loss on a share of the classes, its draws, its gradients."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

import torchlosses as tl

C, D, B = 40, 6, 8


def problem(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=g, dtype=dtype, requires_grad=True)
    w = torch.randn(C, D, generator=g, dtype=dtype, requires_grad=True)
    b = torch.randn(C, generator=g, dtype=dtype, requires_grad=True)
    y = torch.randint(C, (B,), generator=g)
    return x, w, b, y


def gradient(t: Tensor) -> Tensor:
    assert t.grad is not None
    return t.grad.to_dense() if t.grad.is_sparse else t.grad


@pytest.mark.parametrize("gradients", ["dense", "sparse"])
@pytest.mark.parametrize("inner", [tl.ArcFace(), tl.CurricularFace(), tl.CrossEntropy(label_smoothing=0.1)])
def test_all_classes_are_the_loss_itself(inner: tl.RowLoss, gradients: str) -> None:
    x, w, _, y = problem()
    full = copy.deepcopy(inner)(tl.cosine(x, w), y)
    full.backward()  # type: ignore[no-untyped-call]
    expected = gradient(x).clone(), gradient(w).clone()
    x.grad = w.grad = None
    value = tl.ClassSampling(inner, rate=1.0, gradients=gradients)(tl.cosine(x, w), y)
    value.backward()
    assert torch.allclose(value, full)
    assert w.grad is not None and w.grad.is_sparse == (gradients == "sparse")
    assert torch.allclose(gradient(x), expected[0]) and torch.allclose(gradient(w), expected[1])


@pytest.mark.parametrize("gradients", ["dense", "sparse"])
@pytest.mark.parametrize("blocked", [False, True])
def test_a_linear_head_with_bias_on_given_classes(gradients: str, blocked: bool) -> None:
    x, w, b, y = problem()
    others = torch.tensor([c for c in (39, 5, 1, 17) if c not in y.tolist()])
    sampled = torch.cat([y.unique(), others]).flip(0)
    kept = sampled.sort().values
    reference = torch.nn.functional.cross_entropy((x @ w[kept].T + b[kept]), torch.searchsorted(kept, y))
    reference.backward()  # type: ignore[no-untyped-call]
    expected = [gradient(t).clone() for t in (x, w, b)]
    x.grad = w.grad = b.grad = None
    limits = {"block": 256, "dense": 0} if blocked else {"dense": 1 << 30}
    with tl.memory_budget(**limits):
        loss = tl.ClassSampling(tl.CrossEntropy(), gradients=gradients)
        value = loss(tl.linear(x, w, b), y, sampled=sampled)
        value.backward()
    assert torch.allclose(value, reference)
    for t, e in zip((x, w, b), expected, strict=True):
        assert torch.allclose(gradient(t), e)
    assert w.grad is not None and w.grad.is_sparse == (gradients == "sparse")


def test_the_share_holds_every_right_class_and_uniform_others() -> None:
    _, _, _, y = problem()
    loss = tl.ClassSampling(tl.CrossEntropy(), rate=0.5, seed=3)
    counted = torch.ones(B, dtype=torch.bool)
    drawn = [loss.draw(y, counted, C) for _ in range(400)]
    assert all(d.shape[0] == C // 2 and torch.isin(y, d).all() and (d[1:] > d[:-1]).all() for d in drawn)
    often = torch.stack([torch.isin(torch.arange(C), d) for d in drawn]).double().mean(0)
    others = ~torch.isin(torch.arange(C), y)
    share = (C // 2 - int((~others).sum())) / int(others.sum())
    assert (often[others] - share).abs().max() < 0.12  # 400 draws: standard deviation 0.025


def test_more_right_classes_than_the_share_are_all_taken_and_ignored_rows_take_none() -> None:
    y = torch.arange(B)
    loss = tl.ClassSampling(tl.CrossEntropy(), rate=0.1)
    assert loss.draw(y, torch.ones(B, dtype=torch.bool), C).tolist() == y.tolist()
    counted = torch.arange(B) < 6
    assert loss.draw(y, counted, C).tolist() == list(range(6))
    x, w, _, _ = problem()
    hidden = y.masked_fill(~counted, -1)
    value = loss(tl.cosine(x, w), tl.classes(hidden, ignore_index=-1))
    assert torch.allclose(value, tl.CrossEntropy()(tl.cosine(x[:6], w[:6]), y[:6]))
    nothing = loss(tl.cosine(x, w), torch.full((B,), -100))
    assert nothing == 0 and nothing.requires_grad


def test_draws_follow_the_seed_and_the_state_dict() -> None:
    x, w, _, y = problem()
    scores = tl.cosine(x, w)

    def made(seed: int | None = 5) -> tl.ClassSampling:
        return tl.ClassSampling(tl.CosFace(), rate=0.4, seed=seed)

    a, b = made(), made()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = [float(a(scores, y).detach()) for _ in range(3)]
    assert first == [float(b(scores, y).detach()) for _ in range(3)] and len(set(first)) == 3
    assert torch.equal(torch.get_rng_state(), before)
    resumed = made(6)
    resumed.load_state_dict(a.state_dict())
    copies = [resumed, copy.deepcopy(a), pickle.loads(pickle.dumps(a))]
    after = float(a(scores, y).detach())
    assert [float(c(scores, y).detach()) for c in copies] == [after] * 3
    a.terms(scores, y)
    assert float(a(scores, y).detach()) == float(copies[0](scores, y).detach())
    a.eval()
    assert float(a(scores, y).detach()) == float(a(scores, y).detach())


def test_class_weights_and_rows_stay_with_their_classes() -> None:
    x, w, _, y = problem()
    weight = torch.linspace(0.5, 2.0, C, dtype=torch.float64)
    sampled = torch.cat([y.unique(), torch.tensor([c for c in range(3) if c not in y.tolist()], dtype=torch.long)])
    kept = sampled.sort().values
    value = tl.ClassSampling(tl.CrossEntropy())(tl.dot(x, w), tl.classes(y, weight), sampled=sampled)
    expected = torch.nn.functional.cross_entropy(x @ w[kept].T, torch.searchsorted(kept, y), weight[kept])
    assert torch.allclose(value, expected)
    rows = tl.ClassSampling(tl.CrossEntropy(), reduction="none")(tl.dot(x, w), y, sampled=sampled)
    assert rows.shape == (B,)


def test_predictions_use_all_classes() -> None:
    x, w, _, _ = problem()
    loss = tl.ClassSampling(tl.CosFace(), rate=0.1)
    assert torch.equal(loss.predict(tl.cosine(x, w)), tl.CosFace().predict(tl.cosine(x, w)))


def test_what_is_refused() -> None:
    x, w, _, y = problem()
    loss = tl.ClassSampling(tl.CrossEntropy())
    with pytest.raises(ValueError, match=r"sampled: expected every right class among them, got none of"):
        loss(tl.dot(x, w), y, sampled=torch.tensor([c for c in range(C) if c != int(y[0])]))
    with pytest.raises(ValueError, match="sampled: expected distinct classes"):
        loss(tl.dot(x, w), y, sampled=torch.cat([y, y]))
    with pytest.raises(ValueError, match=r"sampled: expected classes in \[0, 40\)"):
        loss(tl.dot(x, w), y, sampled=torch.arange(C + 1))
    with pytest.raises(TypeError, match=r"targets: ClassSampling expected classes\(\), got multi_label\(\)"):
        tl.ClassSampling(tl.BinaryCrossEntropy())(tl.dot(x, w), tl.multi_label(torch.ones(B, C)))
    with pytest.raises(ValueError, match=r"targets: expected class indices in \[0, 40\), got 40"):
        loss(tl.dot(x, w), y.clone().fill_(C))
    with pytest.raises(ValueError, match=r"rate: expected a number in \(0, 1\]"):
        tl.ClassSampling(tl.CrossEntropy(), rate=0.0)
    with pytest.raises(TypeError, match="goes around other wrappers"):
        tl.HardNegatives(tl.ClassSampling(tl.ArcFace()), k=2)(tl.cosine(x, w), y)


def test_other_wrappers_go_inside() -> None:
    x, w, _, y = problem()
    loss = tl.ClassSampling(tl.HardNegatives(tl.ArcFace(), k=2), rate=0.5, seed=0)
    assert torch.isfinite(loss(tl.cosine(x, w), y))


def test_the_benchmark_measures_one_value_on_every_side(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import heads

    size = heads.Size(batch=4, classes=30, features=5, rate=1.0)
    found = [heads.measure(side, size, repeats=2) for side in heads.SIDES]
    assert all(len(f["seconds"]) == 2 and f["value"] == pytest.approx(found[0]["value"], rel=1e-4) for f in found)
    assert heads.need("usual code", heads.Size()) > heads.need("ArcFace", heads.Size())
    assert heads.main(["--classes", "30", "--batch", "4", "--features", "5", "--repeats", "1", "--side", "ArcFace"]) == 0
    assert '"value"' in capsys.readouterr().out


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("hits", [False, True])
@pytest.mark.parametrize("proposal", ["uniform", "log_uniform", "counts"])
def test_sampled_softmax_against_its_definition(proposal: str, hits: bool, blocked: bool) -> None:
    x, w, b, y = problem()
    y = y.clone()
    y[2] = -100
    counts = torch.arange(C).double()
    sampled = torch.tensor([int(y[0]), 5, 5, 1, 17, int(y[3])])
    q = {
        "uniform": torch.full((C,), 1 / C, dtype=torch.float64),
        "log_uniform": torch.tensor([math.log((c + 2) / (c + 1), C + 1) for c in range(C)], dtype=torch.float64),
        "counts": counts.clamp(min=1) / counts.clamp(min=1).sum(),
    }[proposal]
    expected = (len(sampled) * q).log()
    z = x @ w.T + b
    rows = []
    for i in range(B):
        if y[i] < 0:
            continue
        drawn = [z[i, j] - expected[j] for j in sampled.tolist() if not (hits and j == y[i])]
        right = z[i, y[i]] - expected[y[i]]
        rows.append(torch.stack([right, *drawn]).logsumexp(0) - right)
    reference = torch.stack(rows).mean()
    wanted = torch.autograd.grad(reference, (x, w, b))
    limits = {"block": 256, "dense": 0} if blocked else {"dense": 1 << 30}
    with tl.memory_budget(**limits):
        loss = tl.SampledSoftmax(proposal=proposal, class_counts=counts, remove_hits=hits)
        for scores in (tl.linear(x, w, b), (x @ w.T + b)):
            value = loss(scores, y, sampled=sampled)
            torch.testing.assert_close(value, reference, rtol=1e-9, atol=0)
            for found, gradient_ in zip(torch.autograd.grad(value, (x, w, b)), wanted, strict=True):
                torch.testing.assert_close(found, gradient_)


def test_sampled_softmax_of_every_class_once_is_cross_entropy() -> None:
    x, w, b, y = problem()
    scores = tl.linear(x, w, b)
    value = tl.SampledSoftmax()(scores, y, sampled=torch.arange(C))
    assert torch.allclose(value, tl.CrossEntropy()(scores, y))
    assert torch.equal(tl.SampledSoftmax().predict(scores), tl.CrossEntropy().predict(scores))


def test_sampled_softmax_draws_by_its_proposal_and_resumes() -> None:
    scores, y = torch.zeros(1, C), torch.tensor([0])
    counts = torch.zeros(C)
    counts[3] = 1e9  # nearly every draw
    loss = tl.SampledSoftmax(samples=8, proposal="counts", class_counts=counts, seed=0)
    assert loss(scores, torch.tensor([3])).item() == 0.0  # all draws are hits
    first = tl.SampledSoftmax(samples=8, proposal="log_uniform", seed=4)
    resumed = tl.SampledSoftmax(samples=8, proposal="log_uniform", seed=5)
    resumed.load_state_dict(first.state_dict())
    values = [first(scores, y).item() for _ in range(3)]
    assert values == [resumed(scores, y).item() for _ in range(3)] and len(set(values)) > 1


def test_what_sampled_softmax_refuses() -> None:
    scores = torch.zeros(2, C)
    with pytest.raises(ValueError, match="class_counts: needed with proposal='counts'"):
        tl.SampledSoftmax(proposal="counts")
    with pytest.raises(TypeError, match=r"targets: SampledSoftmax expected classes\(\) without class weights, got soft\(\)"):
        tl.SampledSoftmax()(scores, tl.soft(torch.full((2, C), 1 / C)))
    with pytest.raises(TypeError, match="got class weights"):
        tl.SampledSoftmax()(scores, tl.classes(torch.tensor([0, 1]), torch.ones(C)))
    with pytest.raises(ValueError, match="targets: expected class indices"):
        tl.SampledSoftmax()(scores, torch.tensor([0, C]))


@pytest.mark.parametrize("loss", [tl.CrossEntropy(label_smoothing=0.1), tl.Focal(), tl.CrammerSinger()])
def test_capped_scores_are_those_of_the_matrix(loss: tl.RowLoss) -> None:
    x, w, b, y = problem()
    reference = loss(3.0 * torch.tanh((x @ w.T + b) / 3.0), y)
    wanted = torch.autograd.grad(reference, (x, w, b))
    for limits in ({"block": 256, "dense": 0}, {"dense": 1 << 30}):
        with tl.memory_budget(**limits):
            value = loss(tl.linear(x, w, b).softcap(3.0), y)
            found = torch.autograd.grad(value, (x, w, b))
        torch.testing.assert_close(value, reference)
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs)
    far = (tl.linear(x.detach().half() * 1e3, w.detach().half()) * 100.0).softcap(30.0).tensor()
    assert torch.isfinite(far).all() and far.abs().max() <= 30
    with pytest.raises(ValueError, match="cap: expected a number > 0, got 0"):
        tl.linear(x, w).softcap(0)


@pytest.mark.parametrize("form", ["linear", "plain", "private", "poincare"])
def test_one_picked_cell_a_row(form: str) -> None:
    x, w, b, y = problem()
    scores = {
        "linear": lambda: tl.linear(x, w, b) * 0.5 + torch.arange(C)[None, :],
        "plain": lambda: tl.concat(x @ w.T) - x.detach()[:, :1],
        "private": lambda: tl.per_row(x, w.expand(B, C, D)),
        "poincare": lambda: tl.poincare(0.1 * x, 0.1 * w),
    }[form]()
    whole, picked = scores.tensor().gather(1, y[:, None]), scores.pick(y).tensor()
    torch.testing.assert_close(picked, whole)
    for ours, theirs in zip(
        torch.autograd.grad(picked.square().sum(), (x, w), retain_graph=True),
        torch.autograd.grad(whole.square().sum(), (x, w)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(TypeError, match="pick: expected products, cosines or plain scores of one piece"):
        tl.concat(scores, scores).pick(y)
