"""Preference objectives: formulas, links, one-sided batches, extremes."""

from __future__ import annotations

import math

import pytest
import torch

import torchlosses as tl

LINKS = ("logistic", "hinge", "squared", "exponential", "truncated_quadratic", "savage")


def test_named_settings() -> None:
    scores = torch.randn(5, 2, dtype=torch.float64)
    margin = scores[:, 0] - scores[:, 1]
    expected = -torch.nn.functional.logsigmoid(margin)
    torch.testing.assert_close(tl.DPO(reduction="none")(scores, tl.preferred()), expected)
    torch.testing.assert_close(tl.RankNet(reduction="none")(scores, tl.preferred()), expected)
    torch.testing.assert_close(tl.SLiC(reduction="none")(scores, tl.preferred()), (1 - margin).relu())
    squared = tl.GPO(link="squared", reduction="none")(scores * 0.2, tl.preferred())
    torch.testing.assert_close(tl.IPO(reduction="none")(scores, tl.preferred()), squared / 0.04)


def test_lists_are_sums_over_the_others() -> None:
    scores = torch.randn(3, 4, dtype=torch.float64)
    expected = sum(tl.DPO()(scores[:, [0, j]], tl.preferred()) for j in (1, 2, 3))
    torch.testing.assert_close(tl.DPO()(scores, tl.preferred()), expected)


def test_kto_one_sided_and_baseline() -> None:
    rewards = torch.tensor([[1.0], [-2.0]], dtype=torch.float64, requires_grad=True)
    for label in (True, False):
        value = tl.KTO()(rewards, tl.desirable(torch.tensor([label, label])), kl=torch.tensor([-1.0, -3.0]))
        sign = 1 if label else -1
        expected = sum(1 - 1 / (1 + math.exp(-sign * r)) for r in (1.0, -2.0)) / 2
        assert value.item() == pytest.approx(expected)
    with pytest.raises(TypeError, match="baseline"):
        tl.KTO()(rewards, tl.desirable(torch.tensor([True, False])))


def test_orpo_terms() -> None:
    z = torch.tensor([[-0.5, -1.0]], dtype=torch.float64)
    terms = tl.ORPO(weight=0.2).terms(z, tl.preferred())
    odds = [math.log(math.exp(x) / (1 - math.exp(x))) for x in (-0.5, -1.0)]
    assert terms["nll"].item() == pytest.approx(0.5)
    assert terms["odds_ratio"].item() == pytest.approx(0.2 * math.log1p(math.exp(odds[1] - odds[0])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extremes(dtype: torch.dtype) -> None:
    for link in LINKS:
        scores = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0, 0]], dtype=dtype, requires_grad=True)
        value = tl.GPO(link=link)(scores, tl.preferred())
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(scores.grad).all()
    z = torch.tensor([[0.0, -1e4], [-1e4, 0.0]], dtype=dtype, requires_grad=True)
    value = tl.ORPO()(z, tl.preferred())
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(z.grad).all()


@pytest.mark.parametrize("link", LINKS)
def test_gradcheck(link: str) -> None:
    scores = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: tl.GPO(link=link, label_smoothing=0.1)(s, tl.preferred()), scores)
