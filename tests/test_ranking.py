"""List objectives against slow loops, and their properties."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import torchlosses as tl

LOSSES = [
    tl.RankNet(),
    tl.LambdaRank(k=2),
    tl.LambdaLoss(k=2),
    tl.LambdaLoss(weight="ndcg2pp"),
    tl.PairwiseLoss(phi="exponential"),
    tl.PairwiseLoss(phi="hinge", over="pairs"),
    tl.PairwiseLoss(phi="difference"),
    tl.RankNet(ties="half"),
    tl.ListNet(),
    tl.ListNet(k=2),
    tl.ListNet(target="normalized"),
    tl.ListMLE(),
    tl.PListMLE(normalize="weights"),
]


def ranking(scores: list[float]) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [order.index(i) + 1 for i in range(len(scores))]


def slow_lambdarank(scores: list[float], grade: list[float], k: int) -> float:
    rank, gain = ranking(scores), [2**y - 1 for y in grade]
    ideal = sum(g / math.log2(p + 2) for p, g in enumerate(sorted(gain, reverse=True)[:k])) or 1.0
    discount = [1 / math.log2(1 + r) if r <= k else 0.0 for r in rank]
    total = 0.0
    for i, j in itertools.permutations(range(len(scores)), 2):
        if grade[i] > grade[j]:
            weight = abs(gain[i] - gain[j]) * abs(discount[i] - discount[j]) / ideal
            total += weight * math.log1p(math.exp(scores[j] - scores[i]))
    return total


def slow_listmle(scores: list[float], grade: list[float]) -> float:
    order = sorted(range(len(scores)), key=lambda i: (-grade[i], i))
    return sum(math.log(sum(math.exp(scores[j]) for j in order[p:])) - scores[i] for p, i in enumerate(order))


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-3, 4, (6, 7), generator=generator).double() / 2  # ties on purpose
    grade = torch.randint(0, 4, (6, 7), generator=generator)
    mask = torch.rand(6, 7, generator=generator) > 0.3
    mask[4] = False
    mask[5] = False
    mask[5, 2] = True
    return scores, grade, mask


@pytest.mark.parametrize("dense", [0, 1 << 30])
def test_slow_references(dense: int) -> None:
    scores, grade, mask = batch()
    with tl.memory_budget(block=256, dense=dense):
        pairs = tl.LambdaRank(k=3, reduction="none")(scores, tl.graded(grade, mask=mask))
        orders = tl.ListMLE(reduction="none")(scores, tl.graded(grade, mask=mask))
    for i in range(len(scores)):
        s, y = scores[i][mask[i]].tolist(), grade[i][mask[i]].double().tolist()
        assert pairs[i].item() == pytest.approx(slow_lambdarank(s, y, 3), abs=1e-12)
        assert orders[i].item() == pytest.approx(slow_listmle(s, y), abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_masked_items_are_absent(loss: tl.RowLoss) -> None:
    scores, grade, mask = batch()
    scores.requires_grad_()
    value = loss(scores, tl.graded(grade, mask=mask))
    other = loss(torch.where(mask, scores, 1e4), tl.graded(torch.where(mask, grade, 9), mask=mask))
    assert torch.equal(value, other)
    (gradient,) = torch.autograd.grad(value, scores)
    assert torch.isfinite(gradient).all() and (gradient[~mask] == 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_permutation_invariance(loss: tl.RowLoss) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    grade = torch.stack([torch.randperm(6, generator=generator) for _ in range(3)])
    order = torch.randperm(6, generator=generator)
    torch.testing.assert_close(loss(scores[:, order], grade[:, order]), loss(scores, grade))


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extremes(loss: tl.RowLoss, dtype: torch.dtype) -> None:
    scores = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    grade = torch.tensor([[0, 2, 1], [0, 2, 2], [1, 1, 1]])
    value = loss(scores, grade)
    value.backward()
    assert torch.isfinite(value)
    if not (loss._hypers.get("phi") and loss.phi == "exponential" and dtype == torch.float16):  # e^80 > 65504
        assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_short_lists(loss: tl.RowLoss) -> None:
    scores = torch.randn(3, 1, dtype=torch.float64, requires_grad=True)
    value = loss(scores, torch.ones(3, 1, dtype=torch.long))
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert loss(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.long)).item() == 0


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradcheck(loss: tl.RowLoss) -> None:
    scores = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: loss(s, torch.tensor([[0, 2, 1, 1], [3, 0, 0, 1]])), scores)
