"""Rules of sums and sums of squares: the same on a linear head without the scores as with them."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

import torchlosses as tl
from benchmarks.spherical import Factored
from torchlosses.engine import spherical
from torchlosses.engine.blocked import Walk
from torchlosses.engine.problem import Problem
from torchlosses.scores import as_scores

LOSSES: dict[str, Callable[..., tl.RowLoss]] = {
    "z-loss": lambda **k: tl.ZLoss(a=0.5, b=2.0, **k),
    "spherical softmax": lambda **k: tl.SphericalSoftmax(eps=0.01, **k),
    "taylor": tl.TaylorSoftmax,
    "rescaled square": lambda **k: tl.RescaledSquare(k=3.0, M=2.0, **k),
    "squared": lambda **k: tl.FenchelYoung(regularizer="squared", **k),
}
HEADS: dict[str, Callable[[Tensor, Tensor, Tensor], tl.Scores]] = {
    "linear": lambda h, w, b: tl.linear(h, w),
    "bias": lambda h, w, b: tl.linear(h, w, b),
    "cosine": lambda h, w, b: tl.cosine(h, w) * 5.0,
    "scaled and shifted": lambda h, w, b: tl.linear(h, w) * (1 + b.square())[None, :] * 0.7 + b[None, :] + 0.3,
    "temperature": lambda h, w, b: tl.linear(h, w) * b[0],
}


def operands(rows: int = 40, columns: int = 70, width: int = 6, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes: list[tuple[int, ...]] = [(rows, width), (columns, width), (columns,)]
    return [(torch.randn(size, generator=generator, dtype=dtype) + 0.5).requires_grad_() for size in sizes]


def labels(rows: int = 40, columns: int = 70) -> Tensor:
    y = torch.randint(columns, (rows,), generator=torch.Generator().manual_seed(1))
    y[1], y[2] = y[0], -100
    return y


class Watch:
    """Which evaluation ran."""

    def __init__(self) -> None:
        self.spherical = self.blocks = 0

    def __enter__(self) -> Watch:
        rows, values, gradients = spherical.rows, Walk.values, Walk.gradients

        def counted(problem: Problem) -> object:
            self.spherical += 1
            return rows(problem)

        def walked(function: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object) -> object:
                self.blocks += 1
                return function(*args)

            return call

        self._patches = [
            patch.object(spherical, "rows", counted),
            patch.object(Walk, "values", walked(values)),
            patch.object(Walk, "gradients", walked(gradients)),
        ]
        for each in self._patches:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._patches:
            each.stop()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_spherical_is_blocked_is_dense(name: str, head: str, reduction: str) -> None:
    inputs, loss = operands(), LOSSES[name](reduction=reduction)
    weight = torch.rand(70, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    targets = tl.classes(labels(), weight=weight).given(weight=torch.linspace(0.1, 2, 40, dtype=torch.float64))
    cotangent = torch.linspace(-1, 2, 40, dtype=torch.float64)

    def run() -> list[Tensor]:
        value = loss(HEADS[head](*inputs), targets)
        root = (value * cotangent).sum() if reduction == "none" else value
        found = torch.autograd.grad(root, inputs, allow_unused=True)
        return [value, *(torch.zeros(()) if g is None else g for g in found)]

    with tl.memory_budget(dense=1 << 30), Watch() as watch:
        dense = run()
        assert not watch.spherical and not watch.blocks
    with tl.memory_budget(dense=0, block=4000):
        with Watch() as watch:
            without_scores = run()
            assert watch.spherical == 1 and not watch.blocks
        with patch.object(spherical, "serves", lambda problem: False), Watch() as watch:
            blocked = run()
            assert watch.blocks and not watch.spherical
    for a, b, c in zip(dense, blocked, without_scores, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_once_and_twice(name: str) -> None:
    inputs, loss = operands(12, 9, 3), LOSSES[name]()
    y = labels(12, 9)

    def value(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return loss(tl.linear(h, w, b), tl.classes(y))

    with tl.memory_budget(dense=0), Watch() as watch:
        assert torch.autograd.gradcheck(value, inputs)
        assert torch.autograd.gradgradcheck(value, inputs)
        assert watch.spherical and not watch.blocks


def test_strips_of_columns_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    h, w, _ = operands()
    with tl.memory_budget(dense=0):
        whole = tl.ZLoss()(tl.linear(h, w), tl.classes(labels()))
        monkeypatch.setattr(spherical, "STRIP", 16)
        torch.testing.assert_close(tl.ZLoss()(tl.linear(h, w), tl.classes(labels())), whole)


def serves(scores: tl.Scores, targets: tl.Targets, loss: tl.RowLoss | None = None) -> bool:
    problem, _, _ = (loss or tl.ZLoss())._problem(scores, targets, {})
    return spherical.serves(problem)


def test_serves_only_where_exact_and_cheaper() -> None:
    h, w, b = operands()
    y = tl.classes(labels())
    assert serves(tl.linear(h, w, b), y)
    assert serves(tl.linear(h.detach(), w), y) and serves(tl.linear(h, w.detach()), y)
    assert not serves(tl.linear(h, w), y, tl.CrossEntropy())
    assert not serves(tl.linear(h, w), y, tl.TaylorSoftmax(order=4))
    assert not serves(tl.linear(h, w), tl.soft(torch.full((40, 70), 1 / 70)), tl.TaylorSoftmax())
    assert not serves(tl.concat(tl.linear(h, w), tl.linear(h, w)), y)
    assert not serves(as_scores(h @ w.T), y)
    assert not serves(tl.euclidean(h, w), y)
    assert not serves(tl.cosine(h), tl.paired())
    hidden = b.detach().clone()
    hidden[3] = -torch.inf
    assert not serves(tl.linear(h, w, hidden), y)
    # more features than columns, or few rows: the products with the scores are cheaper
    assert not serves(tl.linear(*operands(100, 5, 6)[:2]), tl.classes(labels(100, 5)))
    assert not serves(tl.linear(*operands(4, 70, 6)[:2]), tl.classes(labels(4, 70)))
    with torch.no_grad():
        assert serves(tl.linear(h, w), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 80.0])
def test_half_precision_and_large_scores(name: str, dtype: torch.dtype, scale: float) -> None:
    inputs = [t.detach().to(dtype).requires_grad_() for t in operands(64, 200, 8)]
    with torch.no_grad():
        inputs[0] *= scale
    y = labels(64, 200)
    found = []
    for limits in ({"dense": 1 << 30}, {"dense": 0}):
        with tl.memory_budget(**limits):
            value = LOSSES[name]()(tl.linear(*inputs), tl.classes(y))
            gradients = torch.autograd.grad(value, inputs)
        assert value.isfinite() and all(g.isfinite().all() and g.dtype == dtype for g in gradients)
        found.append((value, *gradients))
    fine = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    for dense, other in zip(*found, strict=True):
        torch.testing.assert_close(dense, other, rtol=fine, atol=fine * float(dense.detach().abs().max()))


def test_state_free_values_without_gradients_and_with_frozen_parts() -> None:
    h, w, b = operands()
    y = tl.classes(labels())
    with tl.memory_budget(dense=0):
        whole = tl.ZLoss()(tl.linear(h, w, b), y)
        with torch.no_grad():
            torch.testing.assert_close(tl.ZLoss()(tl.linear(h, w, b), y), whole.detach())
        frozen = tl.ZLoss()(tl.linear(h, w.detach(), b.detach()), y)
        torch.testing.assert_close(torch.autograd.grad(frozen, h), torch.autograd.grad(whole, h))


@pytest.mark.parametrize("name", LOSSES)
def test_the_factored_head_of_the_benchmark_is_gradient_descent(name: str) -> None:
    weight = operands()[1].detach()
    head, loss = Factored(weight, LOSSES[name]()), LOSSES[name]()
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        h = torch.randn(20, 6, generator=generator, dtype=torch.float64, requires_grad=True)
        y = torch.randint(70, (20,), generator=generator)
        weight.requires_grad_()
        value = loss(tl.linear(h, weight), y)
        by_weight, by_h = torch.autograd.grad(value, (weight, h))
        torch.testing.assert_close(head.step(h, y, 0.01), (value.detach(), by_h))
        weight = weight.detach() - 0.01 * by_weight
        torch.testing.assert_close(head.weight, weight)


# --- the rules themselves --------------------------------------------------------------------------------------


def test_z_loss_neither_shift_nor_scale_matter() -> None:
    s = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8) % 5
    torch.testing.assert_close(tl.ZLoss(b=1.0)(s * 7 - 30, y), tl.ZLoss(b=1.0)(s, y))
    z = tl.ZLoss().predict(s)
    torch.testing.assert_close(z.std(-1, unbiased=False), torch.ones(8, dtype=torch.float64))
    # far from 0 nothing cancels in float32
    torch.testing.assert_close(tl.ZLoss()((s + 3000).float(), y), tl.ZLoss()((s + 3000).float().double(), y).float())


@pytest.mark.parametrize("level", [0.0, 0.1, 50.0, -1e4])
def test_z_loss_of_equal_scores_is_a_constant(level: float) -> None:
    s = torch.full((3, 7), level, requires_grad=True)
    value = tl.ZLoss(a=2.0, b=0.5)(s, torch.tensor([0, 3, 6]))
    torch.testing.assert_close(value, torch.nn.functional.softplus(torch.tensor(1.0)) / 2)
    (gradient,) = torch.autograd.grad(value, s)
    assert not gradient.any()


@pytest.mark.parametrize("order", [2, 4, 6])
def test_taylor_softmax_is_the_polynomial(order: int) -> None:
    s = torch.linspace(-6, 6, 25, dtype=torch.float64).reshape(5, 5)
    terms = torch.stack([s**i / torch.exp(torch.lgamma(torch.tensor(i + 1.0, dtype=s.dtype))) for i in range(order + 1)])
    t = terms.sum(0)
    loss = tl.TaylorSoftmax(order=order, reduction="none")
    torch.testing.assert_close(loss.predict(s), t / t.sum(-1, keepdim=True))
    torch.testing.assert_close(loss(s, torch.arange(5)), -(t / t.sum(-1, keepdim=True)).diagonal().log())


def test_soft_targets_are_averages() -> None:
    s = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(-1)
    for loss in (tl.TaylorSoftmax(reduction="none"), tl.SphericalSoftmax(reduction="none")):
        each = torch.stack([loss(s, torch.full((6,), k)) for k in range(4)], 1)
        torch.testing.assert_close(loss(s, tl.soft(q)), (q * each).sum(-1))
