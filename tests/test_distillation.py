"""Divergences: limits, masks, both sides as recipes, extremes."""

from __future__ import annotations

import pytest
import torch

import torchlosses as tl

LOSSES = [tl.ForwardKL(), tl.ReverseKL(), tl.GeneralizedJSD(beta=0.3), tl.MarginMSE(), tl.MarginMSE(pairs="all")]


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def test_limits_of_the_generalized_divergence() -> None:
    s, t = pair()
    small = tl.GeneralizedJSD(beta=1e-6)(s, tl.teacher(t)) / 1e-6
    torch.testing.assert_close(small, tl.ForwardKL()(s, tl.teacher(t)), rtol=1e-4, atol=0)
    large = tl.GeneralizedJSD(beta=1 - 1e-6)(s, tl.teacher(t)) / 1e-6
    torch.testing.assert_close(large, tl.ReverseKL()(s, tl.teacher(t)), rtol=1e-4, atol=0)
    assert tl.GeneralizedJSD(beta=0)(s, tl.teacher(t)) == tl.ForwardKL()(s, tl.teacher(t))


def test_cross_entropy_has_the_same_gradient() -> None:
    s, t = pair()
    s.requires_grad_()
    gradients = [torch.autograd.grad(tl.ForwardKL(entropy=e)(s, tl.teacher(t)), s)[0] for e in (True, False)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("dense", [0, 1 << 30])
def test_masked_vocabulary_is_absent(loss: tl.RowLoss, dense: int) -> None:
    s, t = pair()
    expected = loss(s[:, :5], tl.teacher(t[:, :5]))
    s[:, 5] = t[:, 5] = -torch.inf
    s.requires_grad_()
    with tl.memory_budget(block=256, dense=dense):
        value = loss(s, tl.teacher(t))
        (gradient,) = torch.autograd.grad(value, s)
    torch.testing.assert_close(value, expected)
    assert torch.isfinite(gradient).all() and (gradient[:, 5] == 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_heads_on_both_sides(loss: tl.RowLoss) -> None:
    h, w = torch.randn(8, 3, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    g, v = torch.randn(8, 2, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    dense = loss(h @ w.T, tl.teacher(g @ v.T))
    with tl.memory_budget(block=256, dense=0):
        value = loss(tl.linear(h, w), tl.teacher(tl.linear(g, v)))
    torch.testing.assert_close(value, dense)
    torch.testing.assert_close(torch.autograd.grad(value, w), torch.autograd.grad(dense, w))
    assert not any(x is not None for x in torch.autograd.grad(loss(h @ w.T, tl.teacher(g @ v.T)), [v], allow_unused=True))


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extremes(loss: tl.RowLoss, dtype: torch.dtype) -> None:
    s = torch.tensor([[100.0, -100.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    value = loss(s, tl.teacher(torch.tensor([[-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(s.grad).all()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradcheck(loss: tl.RowLoss) -> None:
    s, t = pair()
    assert torch.autograd.gradcheck(lambda x: loss(x, tl.teacher(t)), s.requires_grad_())


@pytest.mark.parametrize("loss", [tl.ForwardKL(), tl.ReverseKL(skew=0.1), tl.GeneralizedJSD(beta=0.3)])
@pytest.mark.parametrize("dense", [0, 1 << 20])
def test_a_teacher_minus_inf_is_a_probability_of_zero(loss, dense):
    student = torch.randn(6, 9, dtype=torch.double, requires_grad=True)
    known = torch.randn(6, 9, dtype=torch.double)
    hidden = known.clone()
    hidden[:, 4:] = -torch.inf
    nearly = known.clone()
    nearly[:, 4:] = -200.0
    with tl.memory_budget(dense=dense, block=200):
        value = loss(student, tl.teacher(hidden))
        expected = loss(student, tl.teacher(nearly))
        (found,) = torch.autograd.grad(value, student)
        (gradient,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(found, gradient)


def test_reverse_kl_leaves_out_what_the_teacher_never_says():
    student = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    hidden = torch.randn(3, 4, dtype=torch.double)
    hidden[:, 3] = -torch.inf
    value = tl.ReverseKL()(student, tl.teacher(hidden))
    p, q = student.log_softmax(-1)[:, :3], hidden[:, :3].log_softmax(-1)
    torch.testing.assert_close(value, (p.exp() * (p - q)).sum(-1).mean())
