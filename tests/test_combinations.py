"""Losses on scores and targets that no paper put together, against slow loops over rows and cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchlosses as tl

torch.manual_seed(0)
D = torch.float64
X, W, K = torch.randn(6, 4, dtype=D), torch.randn(5, 4, dtype=D), torch.randn(6, 4, dtype=D)
POOL = torch.randn(6, 5, 4, dtype=D)
LIST = torch.rand(6, 5, dtype=D) * 2 - 1
GRADES = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 0, 0, 0], [3, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 2, 2, 1, 0], [0, 0, 4, 0, 1]])
INDEX = torch.tensor([0, 4, 2, 2, 1, 3])
LABELS = torch.tensor([0, 0, 1, 1, 1, 2])
HOT = GRADES > 0
HOT[1, 1] = True
POLICY, REFERENCE = -torch.rand(6, 5, dtype=D) * 9, -torch.rand(6, 5, dtype=D) * 9


def lse(values: list[Tensor]) -> Tensor:
    return torch.stack(values).logsumexp(0)


def softplus(x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(x, threshold=1000)


def rows(scores: Tensor, one: Callable[[int, list[Tensor]], Any]) -> list[Any]:
    return [one(i, list(scores[i])) for i in range(scores.shape[0])]


def mean(values: list[Any]) -> Tensor:
    kept = [v for v in values if v is not None]
    return torch.stack(kept).sum() / len(kept)


def circle(hot: Tensor, margin: float, gamma: float) -> Callable[[int, list[Tensor]], Any]:
    def one(i: int, s: list[Tensor]) -> Any:
        right = [
            -gamma * max(1 + margin - float(v.detach()), 0.0) * (v - (1 - margin)) for j, v in enumerate(s) if hot[i, j]
        ]
        wrong = [gamma * max(float(v.detach()) + margin, 0.0) * (v - margin) for j, v in enumerate(s) if not hot[i, j]]
        value = softplus(lse(right) + lse(wrong)) if right and wrong else None
        return value if value is not None and value > 0 else None

    return one


def poly(i: int, s: list[Tensor]) -> Tensor:
    nll = lse(s) - s[INDEX[i]]
    return nll + 2.0 * (1 - torch.exp(-nll))


def lambda_ndcg(grades: Tensor) -> Callable[[int, list[Tensor]], Tensor]:
    def one(i: int, s: list[Tensor]) -> Tensor:
        y = [int(g) for g in grades[i]]
        order = sorted(range(len(s)), key=lambda j: (-float(s[j]), j))
        rank = {j: r + 1 for r, j in enumerate(order)}
        ideal = sum((2**g - 1) / math.log2(r + 2) for r, g in enumerate(sorted(y, reverse=True))) or 1.0
        total = 0 * s[0]
        for a in range(len(s)):
            for b in range(len(s)):
                if y[a] > y[b]:
                    d = abs(rank[a] - rank[b])
                    weight = abs(2 ** y[a] - 2 ** y[b]) / ideal * abs(1 / math.log2(1 + d) - 1 / math.log2(2 + d))
                    total = total + weight * softplus(s[b] - s[a])
        return total

    return one


def multi_similarity(hot: Tensor) -> Callable[[int, list[Tensor]], Tensor]:
    def one(i: int, s: list[Tensor]) -> Tensor:
        right = [-2.0 * (v - 0.5) for j, v in enumerate(s) if hot[i, j]]
        wrong = [50.0 * (v - 0.5) for j, v in enumerate(s) if not hot[i, j]]
        value = 0 * s[0]
        value = value + (softplus(lse(right)) / 2 if right else 0.0)
        return value + (softplus(lse(wrong)) / 50 if wrong else 0.0)

    return one


def list_mle(grades: Tensor) -> Callable[[int, list[Tensor]], Tensor]:
    def one(i: int, s: list[Tensor]) -> Tensor:
        order = sorted(range(len(s)), key=lambda j: (-float(grades[i, j]), j))
        return torch.stack([lse([s[j] for j in order[p:]]) - s[order[p]] for p in range(len(s))]).sum()

    return one


def ranknet(i: int, s: list[Tensor]) -> Tensor:
    total = 0 * s[0]
    for a in range(5):
        for b in range(5):
            if GRADES[i, a] > GRADES[i, b]:
                total = total + softplus(s[b] - s[a])
    return total


def supcon(hot: Tensor, temperature: float) -> Callable[[int, list[Tensor]], Any]:
    def one(i: int, s: list[Tensor]) -> Any:
        scaled = [v / temperature for v in s]
        right = [v for j, v in enumerate(scaled) if hot[i, j]]
        return lse(scaled) - torch.stack(right).mean() if right else 0 * s[0]

    return one


def bce(hot: Tensor) -> Callable[[int, list[Tensor]], Tensor]:
    def one(i: int, s: list[Tensor]) -> Tensor:
        return torch.stack([softplus(-v) if hot[i, j] else softplus(v) for j, v in enumerate(s)]).mean()

    return one


def sparsemax(i: int, s: list[Tensor]) -> Tensor:
    z = torch.stack(s)
    ordered = z.sort(descending=True).values
    tau = z[0]
    for k in range(1, 6):
        if 1 + k * ordered[k - 1] > ordered[:k].sum():
            tau = (ordered[:k].sum() - 1) / k
    p = (z - tau).clamp(min=0)
    return -z[INDEX[i]] + 0.5 * torch.where(p > 0, z * z - tau * tau, 0.0).sum() + 0.5


def forward_kl(i: int, s: list[Tensor]) -> Tensor:
    p = (K @ W.T)[i].log_softmax(0)
    return (p.exp() * (p - torch.stack(s).log_softmax(0))).sum()


def hard(k: int, inner: Callable[[int, list[Tensor]], Any]) -> Callable[[int, list[Tensor]], Any]:
    def one(i: int, s: list[Tensor]) -> Any:
        wrong = sorted((j for j in range(len(s)) if j != INDEX[i]), key=lambda j: -float(s[j]))[:k]
        return inner(i, [s[INDEX[i]], *(s[j] for j in wrong)])

    return one


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).mT


CASES: dict[str, tuple[Any, Any, Any, Any]] = {
    "Circle on a reranker's list": (
        tl.Circle(margin=0.3, gamma=20.0),
        lambda: (LIST, tl.graded(GRADES)),
        lambda: LIST,
        circle(GRADES > 0, 0.3, 20.0),
    ),
    "Circle on a class head": (
        tl.Circle(),
        lambda: (tl.cosine(X, W), tl.classes(INDEX)),
        lambda: cosine(X, W),
        circle(torch.nn.functional.one_hot(INDEX, 5) > 0, 0.4, 80.0),
    ),
    "PolyLoss on a language-model head": (
        tl.PolyLoss(),
        lambda: (tl.linear(X, W), tl.classes(INDEX)),
        lambda: X @ W.T,
        poly,
    ),
    "PolyLoss on private candidates": (
        tl.PolyLoss(),
        lambda: (tl.per_row(X, POOL, form="dot"), tl.classes(INDEX)),
        lambda: torch.einsum("bd,bkd->bk", X, POOL),
        poly,
    ),
    "LambdaLoss on implicit rewards": (
        tl.LambdaLoss(),
        lambda: (tl.implicit_reward(POLICY, REFERENCE, 0.3), tl.graded(GRADES)),
        lambda: 0.3 * (POLICY - REFERENCE),
        lambda_ndcg(GRADES),
    ),
    "MultiSimilarity on a class head": (
        tl.MultiSimilarity(),
        lambda: (tl.cosine(X, W), tl.classes(INDEX)),
        lambda: cosine(X, W),
        multi_similarity(torch.nn.functional.one_hot(INDEX, 5) > 0),
    ),
    "ListMLE on embeddings": (
        tl.ListMLE(),
        lambda: (tl.euclidean(X, W), tl.graded(GRADES)),
        lambda: -torch.cdist(X, W),
        list_mle(GRADES),
    ),
    "RankNet on private candidates": (
        tl.RankNet(),
        lambda: (tl.per_row(X, POOL), tl.graded(GRADES)),
        lambda: torch.einsum(
            "bd,bkd->bk", torch.nn.functional.normalize(X, dim=-1), torch.nn.functional.normalize(POOL, dim=-1)
        ),
        ranknet,
    ),
    "SupCon on labels of a multi-label head": (
        tl.SupCon(temperature=0.5),
        lambda: (tl.cosine(X, W), tl.multi_label(HOT)),
        lambda: cosine(X, W),
        supcon(HOT, 0.5),
    ),
    "BinaryCrossEntropy on pairs of embeddings": (
        tl.BinaryCrossEntropy(),
        lambda: (tl.dot(X, K), tl.same_label(LABELS, LABELS)),
        lambda: X @ K.T,
        bce(LABELS[:, None] == LABELS[None, :]),
    ),
    "Sparsemax on distances": (
        tl.Sparsemax(),
        lambda: (tl.euclidean(X, W), tl.classes(INDEX)),
        lambda: -torch.cdist(X, W),
        sparsemax,
    ),
    "ForwardKL of two heads": (
        tl.ForwardKL(),
        lambda: (tl.linear(X, W), tl.teacher(tl.linear(K, W))),
        lambda: X @ W.T,
        forward_kl,
    ),
    "Hard negatives of a softmax head": (
        tl.HardNegatives(tl.CrossEntropy(), k=2),
        lambda: (tl.linear(X, W), tl.classes(INDEX)),
        lambda: X @ W.T,
        hard(2, lambda i, s: lse(s) - s[0]),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("limits", [{"dense": 1 << 30}, {"dense": 0, "block": 64}], ids=["dense", "blocked"])
def test_combination(name: str, limits: dict[str, int]) -> None:
    loss, call, dense, one = CASES[name]
    operands = [t for t in (X, W, K, POOL, LIST, POLICY)]
    for t in operands:
        t.requires_grad_(True)
    with tl.memory_budget(**limits):
        value = loss(*call())
        found = torch.autograd.grad(value, operands, allow_unused=True)
    teacher = "two heads" in name
    slow = mean(rows(dense(), one))
    expected = torch.autograd.grad(slow, operands, allow_unused=True)
    torch.testing.assert_close(value, slow.to(D), rtol=1e-9, atol=1e-10)
    for ours, theirs, t in zip(found, expected, operands, strict=True):
        if teacher and (t is K or t is W):  # the teacher is detached
            assert t is W or ours is None
            continue
        if theirs is None:
            assert ours is None or (ours == 0).all()
        else:
            assert ours is not None
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def test_reward_lists_and_pairs_meet() -> None:
    """DPO is RankNet on lists of two."""
    policy, reference = POLICY[:, :2].detach().requires_grad_(), REFERENCE[:, :2]
    scores = tl.implicit_reward(policy, reference, 0.1)
    dpo, ranknet = tl.DPO()(scores, tl.preferred()), tl.RankNet()(scores, tl.preferred())
    torch.testing.assert_close(dpo, ranknet)
    torch.testing.assert_close(torch.autograd.grad(dpo, policy), torch.autograd.grad(ranknet, policy))
