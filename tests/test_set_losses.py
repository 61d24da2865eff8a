"""Objectives that are not row rules."""

from __future__ import annotations

import pytest
import torch

import torchlosses as tl


@pytest.mark.parametrize("over", ["image", "batch", "all"])
@pytest.mark.parametrize("absent", ["keep", "zero", "drop"])
@pytest.mark.parametrize("log", [False, True])
def test_dice_of_empty_masks_is_finite(over: str, absent: str, log: bool) -> None:
    scores = torch.zeros(2, 3, 4, requires_grad=True)
    loss = tl.Dice(over=over, absent=absent, log=log, activation="none", smooth=0.0)
    value = loss(scores, torch.zeros(2, 3, 4))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(scores.grad).all()


def test_dice_slow() -> None:
    p = torch.rand(2, 3, 5, dtype=torch.float64)
    t = (torch.rand(2, 3, 5) > 0.5).double()
    rows = [
        1 - (2 * (p[i, c] * t[i, c]).sum() + 1) / (p[i, c].sum() + t[i, c].sum() + 1) for i in range(2) for c in range(3)
    ]
    torch.testing.assert_close(tl.Dice(activation="none", smooth=1.0)(p, t), torch.stack(rows).mean())
    whole = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    torch.testing.assert_close(tl.Dice(activation="none", smooth=1.0, over="all")(p, t), whole)


def test_dice_ignores_pixels() -> None:
    scores, labels = torch.randn(2, 3, 6), torch.randint(0, 3, (2, 6))
    labels[:, 4:] = 255
    loss = tl.Dice(ignore_index=255)
    torch.testing.assert_close(loss(scores, labels), loss(scores[:, :, :4], labels[:, :4]))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_huber_as_torch(reduction: str) -> None:
    x, y = torch.randn(9) * 3, torch.randn(9)
    ours = tl.Huber(delta=0.7, reduction=reduction)(x, y)
    torch.testing.assert_close(ours, torch.nn.functional.huber_loss(x, y, delta=0.7, reduction=reduction))
    ours = tl.SmoothL1(delta=0.7, reduction=reduction)(x, y)
    torch.testing.assert_close(ours, torch.nn.functional.smooth_l1_loss(x, y, beta=0.7, reduction=reduction))
    assert torch.isfinite(tl.Huber()(torch.tensor([6e4], dtype=torch.float16), torch.zeros(1)))
    with pytest.raises(ValueError, match="target"):
        tl.Huber()(x, y[:3])


def test_barlow_twins() -> None:
    a, b = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.randn(6, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: tl.BarlowTwins()(z, b), a)
    torch.testing.assert_close(tl.BarlowTwins()(3 * a, b), tl.BarlowTwins()(a, b), rtol=1e-3, atol=1e-3)
    one = torch.ones(1, 4, requires_grad=True)
    tl.BarlowTwins()(one, one).backward()
    assert torch.isfinite(one.grad).all()
