"""Rows at unit length: the lean function does what ordinary autograd does, and a row without direction stays quiet."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import torchlosses as tl
from torchlosses import unit as module
from torchlosses.unit import unit


@pytest.fixture(params=["plain", "lean"])
def path(request, monkeypatch):
    monkeypatch.setattr(module, "LEAN", 0 if request.param == "lean" else 1 << 60)


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
def test_value_and_both_derivatives(path, shape):
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(unit(x, 2.5), 2.5 * F.normalize(x, dim=-1))
    assert torch.autograd.gradcheck(lambda t: unit(t, 2.5), x)
    assert torch.autograd.gradgradcheck(lambda t: unit(t, 2.5), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dense", [0, 1 << 20])
def test_zero_rows_and_extreme_lengths_stay_finite(path, dtype, dense):
    x = torch.randn(8, 4)
    x[0] = 0
    x[1] *= 1e4
    x[2] *= 1e-4
    x = x.to(dtype).requires_grad_()
    with tl.memory_budget(dense=dense):
        value = tl.InfoNCE(temperature=0.05)(tl.cosine(x, x.detach().flip(0)), tl.paired())
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(x.grad).all()
    assert not x.grad[0].any()
