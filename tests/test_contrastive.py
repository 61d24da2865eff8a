"""Contrastive and metric rules: against slow references, in every engine mode, at the extremes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import torchlosses as tl

DENSE, BLOCKED = {"dense": 1 << 30}, {"block": 512, "dense": 0}
RULES: dict[str, Any] = {
    "infonce": lambda **k: tl.InfoNCE(temperature=0.3, **k),
    "infonce own": lambda **k: tl.InfoNCE(temperature=0.3, positives_in_denominator="own", **k),
    "infonce none": lambda **k: tl.InfoNCE(temperature=0.3, positives_in_denominator="none", **k),
    "infonce pairs": lambda **k: tl.InfoNCE(positives_in_denominator="own", over="pairs", **k),
    "supcon": lambda **k: tl.SupCon(base_temperature=0.07, **k),
    "supcon in": lambda **k: tl.SupCon(form="in", over="active", **k),
    "siglip": lambda **k: tl.SigLIP(**k),
    "contrastive": lambda **k: tl.Contrastive(**k),
    "contrastive squared": lambda **k: tl.Contrastive(squared=True, form="distance", over="rows", **k),
    "multi-similarity": lambda **k: tl.MultiSimilarity(**k),
    "multi-similarity mined": lambda **k: tl.MultiSimilarity(epsilon=0.1, **k),
    "circle": lambda **k: tl.Circle(**k),
    "circle faces": lambda **k: tl.Circle(margin=0.25, gamma=256, **k),
    "hard negatives": lambda **k: tl.HardNegatives(tl.InfoNCE(), k=3, **k),
    **{
        f"triplet {mining}{' smooth' * smooth}": lambda m=mining, s=smooth, **k: tl.TripletMargin(
            margin=0.2, mining=m, smooth=s, **k
        )
        for mining in ("all", "hard", "semi-hard", "band", "violating", "easy")
        for smooth in (False, True)
    },
}


@pytest.fixture
def embedded() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(24, 6, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 5, (24,), generator=generator)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("reduction", ["mean", "none", "sum"])
def test_blocked_equals_dense(name: str, reduction: str, embedded: tuple[Tensor, Tensor]) -> None:
    x, labels = embedded
    labels[0] = 99  # a row without positives
    found = []
    for limits in (DENSE, BLOCKED):
        loss, z = RULES[name](reduction=reduction), x.clone().requires_grad_()
        with tl.memory_budget(**limits):
            value = loss(tl.cosine(z), tl.same_label(labels))
            value.square().sum().backward()
        found.append([value.detach(), z.grad, *(p.grad for p in loss.parameters())])
    for dense, blocked in zip(*found, strict=True):
        torch.testing.assert_close(dense, blocked)
    assert any(bool(g.abs().sum() > 0) for g in found[0][1:])


@pytest.mark.parametrize("name", RULES)
def test_order_of_rows_and_columns_does_not_matter(name: str, embedded: tuple[Tensor, Tensor]) -> None:
    x, labels = embedded
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    loss = RULES[name]()
    first = loss(tl.cosine(x), tl.same_label(labels))
    torch.testing.assert_close(first, loss(tl.cosine(x[order]), tl.same_label(labels[order])))


@pytest.mark.parametrize("name", [n for n in RULES if "circle" not in n])
def test_gradcheck(name: str) -> None:
    scores = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    hot = torch.rand(5, 7, generator=torch.Generator().manual_seed(2)) < 0.4
    loss = RULES[name]()
    assert torch.autograd.gradcheck(lambda s: loss(s, tl.multi_label(hot)), scores.requires_grad_())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_finite_at_the_extremes(name: str, dtype: torch.dtype, size: float) -> None:
    generator = torch.Generator().manual_seed(4)
    scores = (torch.randint(-1, 2, (12, 9), generator=generator) * size).to(dtype)
    hot = torch.rand(12, 9, generator=generator) < 0.4
    hot[0], hot[1] = False, True
    scores.requires_grad_()
    value = RULES[name](reduction="sum")(scores, tl.multi_label(hot))
    (gradient,) = torch.autograd.grad(value, scores)
    assert value.isfinite() and gradient.dtype == dtype
    if not (dtype == torch.float16 and size > 1 and "circle" in name):  # gamma times 1e4 exceeds float16
        assert gradient.isfinite().all()


def test_infonce_is_cross_entropy_on_scaled_scores(embedded: tuple[Tensor, Tensor]) -> None:
    q, k = embedded[0][:12], embedded[0][12:]
    for limits in (DENSE, BLOCKED):
        with tl.memory_budget(**limits):
            ours = tl.InfoNCE(temperature=0.2)(tl.cosine(q, k), tl.paired())
            torch.testing.assert_close(ours, tl.CrossEntropy()(tl.cosine(q, k) / 0.2, tl.paired()))


@pytest.mark.parametrize("rule", ["all", "own", "none"])
def test_infonce_against_a_loop(rule: str) -> None:
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    hot = torch.rand(4, 6, generator=generator) < 0.4
    weight = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    rows = []
    for s, h, w in zip(scores, hot, weight, strict=True):
        total = torch.zeros((), dtype=torch.float64)
        for j in h.nonzero().flatten().tolist():
            pool = {"all": torch.ones(6, dtype=torch.bool), "none": ~h, "own": ~h | (torch.arange(6) == j)}[rule]
            total = total + (s + w)[pool].logsumexp(0) - s[j]
        rows.append(total / h.sum().clamp(min=1))
    loss = tl.InfoNCE(temperature=1, positives_in_denominator=rule, reduction="none")
    torch.testing.assert_close(loss(scores, tl.multi_label(hot).given(log_weight=weight)), torch.stack(rows))


def test_rows_without_a_positive() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.5, 0.2]], requires_grad=True)
    hot = torch.tensor([[True, False], [False, False]])
    single = tl.InfoNCE()(scores[:1], tl.multi_label(hot[:1])).item()
    assert tl.InfoNCE()(scores, tl.multi_label(hot)).item() == pytest.approx(single / 2)
    assert tl.InfoNCE(over="valid")(scores, tl.multi_label(hot)).item() == pytest.approx(single)
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    for name in ("infonce", "infonce own", "infonce none", "supcon", "supcon in", "circle", "triplet all"):
        value = RULES[name]()(scores, tl.multi_label(nothing))
        assert value == 0
        value.backward()
    everything = torch.ones(2, 2, dtype=torch.bool)
    for name in ("infonce none", "circle", "triplet hard", "triplet semi-hard"):
        assert RULES[name]()(scores, tl.multi_label(everything)) == 0


def test_supcon_against_a_loop(embedded: tuple[Tensor, Tensor]) -> None:
    x, labels = embedded
    s = torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(x, dim=1).T / 0.1
    outside, inside = [], []
    for i in range(24):
        others = [j for j in range(24) if j != i]
        probability = s[i][others].softmax(0)
        mine = probability[labels[others] == labels[i]]
        outside.append(-mine.log().mean() if len(mine) else torch.zeros((), dtype=x.dtype))
        inside.append(-mine.mean().log() if len(mine) else torch.zeros((), dtype=x.dtype))
    for form, rows in (("out", outside), ("in", inside)):
        loss = tl.SupCon(form=form, reduction="none")
        torch.testing.assert_close(loss(tl.cosine(x), tl.same_label(labels)), torch.stack(rows))


def test_joint_against_concatenation(embedded: tuple[Tensor, Tensor]) -> None:
    q, d = embedded[0][:8], embedded[0][8:]
    own = torch.arange(16) % 8 == torch.arange(8)[:, None]
    dd = tl.cosine(d[:8], d).tensor().masked_fill(own, -torch.inf)
    scores = torch.cat([tl.cosine(q, d).tensor(), tl.cosine(q).tensor(), tl.cosine(d[:8], q).tensor(), dd], 1)
    ours = tl.JointInfoNCE(temperature=0.1)(tl.cosine(q, d), tl.paired())
    torch.testing.assert_close(ours, tl.InfoNCE(temperature=0.1)(scores, tl.paired()))
    with pytest.raises(TypeError, match="one comparison"):
        tl.JointInfoNCE()(scores, tl.paired())


def test_symmetric_is_the_mean_of_both_directions(embedded: tuple[Tensor, Tensor]) -> None:
    q, k = embedded[0][:12], embedded[0][12:]
    loss = tl.InfoNCE(temperature=0.2)
    both = (loss(tl.cosine(q, k), tl.paired()) + loss(tl.cosine(k, q), tl.paired())) / 2
    for limits in (DENSE, BLOCKED):
        with tl.memory_budget(**limits):
            torch.testing.assert_close(tl.SymmetricInfoNCE(temperature=0.2)(tl.cosine(q, k), tl.paired()), both)
            torch.testing.assert_close(tl.Symmetric(loss, combine="sum")(tl.cosine(q, k), tl.paired()), 2 * both)


@pytest.mark.parametrize("mining", ["all", "hard", "semi-hard", "band", "violating", "easy"])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("over", ["active", "terms", "rows"])
def test_triplets_against_a_loop(mining: str, smooth: bool, over: str) -> None:
    generator = torch.Generator().manual_seed(6)
    scores = torch.randint(-4, 5, (8, 9), generator=generator).double() / 4  # many ties
    hot = torch.rand(8, 9, generator=generator) < 0.4
    hot[0], hot[1] = False, True
    scores.requires_grad_()
    margin, sums, counts, active = 0.3, [], [], []
    for s, h in zip(scores, hot, strict=True):
        positives, negatives = h.nonzero().flatten().tolist(), (~h).nonzero().flatten().tolist()
        pairs = []
        if mining in ("all", "band", "violating"):
            for p, n in itertools.product(positives, negatives):
                gap = float(s[p] - s[n])
                if mining == "all" or (0 < gap <= margin if mining == "band" else gap <= 0):
                    pairs.append((p, n))
        elif positives and negatives:
            worst = min(positives, key=lambda j: float(s[j]))
            best = max(positives, key=lambda j: float(s[j]))
            if mining == "hard":
                pairs = [(worst, max(negatives, key=lambda j: float(s[j])))]
            for p in {"easy": [best], "semi-hard": positives, "hard": []}[mining]:
                farther = [n for n in negatives if s[n] < s[p]]
                if farther:
                    pairs.append((p, max(farther, key=lambda j: float(s[j]))))
                elif mining == "semi-hard":
                    pairs.append((p, min(negatives, key=lambda j: float(s[j]))))
        each = [s[n] - s[p] + margin for p, n in pairs]
        each = [torch.nn.functional.softplus(e) if smooth else e.relu() for e in each]
        sums.append(torch.stack(each).sum() if each else s.sum() * 0)
        counts.append(len(each))
        active.append(sum(float(e) > 0 for e in each))
    if over == "rows":
        expected = torch.stack([v / max(c, 1) for v, c in zip(sums, counts, strict=True)]).mean()
    else:
        expected = torch.stack(sums).sum() / sum(active if over == "active" else counts)
    ours = tl.TripletMargin(margin=margin, mining=mining, smooth=smooth, over=over)(scores, tl.multi_label(hot))
    torch.testing.assert_close(ours, expected)
    wanted, got = torch.autograd.grad(expected, scores)[0], torch.autograd.grad(ours, scores)[0]
    torch.testing.assert_close(got, wanted)


def test_circle_weights_carry_no_gradient() -> None:
    scores = torch.tensor([[0.4, 0.5, 0.1]], dtype=torch.float64, requires_grad=True)
    p, n = scores[0, :1], scores[0, 1:]
    xp = -80 * (1.4 - p.detach()).relu() * (p - 0.6)
    xn = 80 * (n.detach() + 0.4).relu() * (n - 0.4)
    slow = torch.nn.functional.softplus(xp.logsumexp(0) + xn.logsumexp(0))
    ours = tl.Circle()(scores, tl.classes(torch.tensor([0])))
    torch.testing.assert_close(ours, slow)
    torch.testing.assert_close(torch.autograd.grad(ours, scores), torch.autograd.grad(slow, scores))


def test_contrastive_pools_each_side_by_its_own_count() -> None:
    scores = torch.tensor([[0.8, 0.3, -0.5], [0.1, 1.0, 0.4]])
    loss = tl.Contrastive(over="pairs")
    targets = tl.classes(torch.tensor([0, 1]))
    assert float(loss(scores, targets)) == pytest.approx((0.2 + 0) / 2 + (0.3 + 0.1 + 0.4) / 4)
    terms = tl.Contrastive().terms(scores, targets)
    assert float(terms["negative"]) == pytest.approx(0.8 / 3)


@pytest.mark.parametrize("k", [0, 1, 3, 50])
def test_hard_negatives_against_a_loop(k: int) -> None:
    generator = torch.Generator().manual_seed(7)
    scores = torch.randint(-2, 3, (6, 8), generator=generator).double()
    hot = torch.rand(6, 8, generator=generator) < 0.3
    kept = hot.clone()
    for i in range(6):
        negatives = [j for j in range(8) if not hot[i, j]]
        for j in sorted(negatives, key=lambda j: (-float(scores[i, j]), j))[:k]:
            kept[i, j] = True
    for inner in (tl.InfoNCE(temperature=1), tl.MultiSimilarity(), tl.TripletMargin()):
        ours = tl.HardNegatives(inner, k=k)(scores, tl.multi_label(hot))
        torch.testing.assert_close(ours, inner(scores, tl.multi_label(hot, mask=kept)))


@pytest.mark.parametrize("strategy", ["absolute", "relative", "threshold"])
def test_guided_filter_against_a_mask(strategy: str, embedded: tuple[Tensor, Tensor]) -> None:
    q, k = embedded[0][:12], embedded[0][12:]
    guide = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    best = guide.diagonal()[:, None]
    limit = {"absolute": best - 0.3, "relative": best - 0.3 * best.abs(), "threshold": torch.tensor(0.3)}[strategy]
    eye = torch.eye(12, dtype=torch.bool)
    slow = tl.InfoNCE()(tl.cosine(q, k), tl.multi_label(eye, mask=(guide <= limit) | eye))
    loss = tl.GuidedFilter(tl.InfoNCE(), margin=0.3, strategy=strategy)
    for limits in (DENSE, BLOCKED):
        with tl.memory_budget(**limits):
            torch.testing.assert_close(loss(tl.cosine(q, k), tl.paired().guided(guide)), slow)
    joint = tl.GuidedFilter(tl.JointInfoNCE(document_query=False), margin=0.1)
    assert joint(tl.cosine(q, k), tl.paired().guided(tl.cosine(q, k))).isfinite()


@pytest.mark.parametrize("limits", [DENSE, BLOCKED])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_siglip_learns_scale_and_bias(limits: dict[str, int], reduction: str) -> None:
    x, y = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(9)).unbind(0)
    loss = tl.SigLIP(reduction=reduction)
    with tl.memory_budget(**limits):
        value = loss(tl.cosine(x, y), tl.paired())
        value.mean().backward()
    scale, bias = loss.log_scale.detach().clone().requires_grad_(), loss.bias.detach().clone().requires_grad_()
    logits = tl.cosine(x, y).tensor() * scale.exp() + bias
    sign = 2 * torch.eye(16) - 1
    slow = torch.nn.functional.softplus(-sign * logits).sum(1).mean()
    slow.backward()
    torch.testing.assert_close(value.mean(), slow)
    torch.testing.assert_close(loss.log_scale.grad, scale.grad)
    torch.testing.assert_close(loss.bias.grad, bias.grad)
    assert not list(tl.SigLIP(learnable=False).parameters())
