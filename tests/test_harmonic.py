"""Distances by every metric, and the harmonic loss on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import torchlosses as tl
from torchlosses import distances
from torchlosses.distances import ELEMENTWISE, METRICS, Metric, pairwise


def operands(rows: int = 7, columns: int = 5, width: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator, dtype=dtype)
    return x.requires_grad_(), torch.randn(columns, width, generator=generator, dtype=dtype).requires_grad_()


@pytest.mark.parametrize(
    ("metric", "p"), [("manhattan", 1.0), ("euclidean", 2.0), ("minkowski", 1.5), ("chebyshev", torch.inf)]
)
def test_norms_agree_with_cdist(metric: str, p: float) -> None:
    x, w = operands()
    found = tl.distance(x, w, metric, p=min(p, 2.0)).tensor()
    torch.testing.assert_close(-found, torch.cdist(x, w, p=p))


def test_minkowski_at_1_and_2_is_manhattan_and_euclidean() -> None:
    x, w = operands()
    for p, metric in ((1.0, "manhattan"), (2.0, "euclidean")):
        torch.testing.assert_close(tl.distance(x, w, "minkowski", p=p).tensor(), tl.distance(x, w, metric).tensor())


def test_mahalanobis_weighs_the_squares_and_learns_its_precision() -> None:
    x, w = operands()
    precision = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    expected = -((x[:, None] - w).square() * precision).sum(-1).sqrt()
    found = tl.distance(x, w, "mahalanobis", precision=precision)
    torch.testing.assert_close(found.tensor(), expected)
    (slope,) = torch.autograd.grad(found.tensor().sum(), precision)
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), precision)[0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_blocked_equals_dense_and_gradients_are_right(metric: str, eps: float) -> None:
    x, w = operands()
    y = torch.tensor([0, 4, 2, 2, 1, 3, 0])

    def value(x: Tensor, w: Tensor) -> Tensor:
        return tl.Harmonic(exponent=2.0)(tl.distance(x, w, metric, eps=eps), y)

    assert torch.autograd.gradcheck(value, (x, w))
    dense = torch.autograd.grad(value(x, w), (x, w))
    with tl.memory_budget(block=64, dense=0):
        blocked = torch.autograd.grad(value(x, w), (x, w))
    torch.testing.assert_close(blocked, dense)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("private", [False, True])
def test_tiles_change_nothing(name: str, private: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = operands()
    y = (w.detach() + torch.arange(7.0)[:, None, None]).requires_grad_() if private else w
    metric, weight = Metric(name, eps=1e-3), torch.arange(35.0, dtype=torch.float64).reshape(7, 5)
    whole = pairwise(x, y, metric)
    expected = torch.autograd.grad((whole * weight).sum(), (x, y))
    monkeypatch.setattr(distances, "TILE", 13)
    tiled = pairwise(x, y, metric)
    torch.testing.assert_close(tiled, whole)
    torch.testing.assert_close(torch.autograd.grad((tiled * weight).sum(), (x, y)), expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_finite_on_a_centre_and_at_extremes(metric: str, dtype: torch.dtype, size: float) -> None:
    x = (size * torch.tensor([[1.0, -1.0], [0.0, 0.0], [1.0, -1.0]])).to(dtype).requires_grad_()
    w = (size * torch.tensor([[1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])).to(dtype).requires_grad_()
    loss = tl.Harmonic(exponent=8.0, reduction="none")
    rows = loss(tl.distance(x, w, metric, p=10.0), torch.tensor([0, 1, 2]))
    gradients = torch.autograd.grad(rows.sum(), (x, w))
    assert rows.isfinite().all() and all(g.isfinite().all() for g in gradients)
    if metric not in ("cosine", "bray_curtis_signed"):
        assert rows[0] < 1e-5 and rows[2] > 1


def test_the_common_scale_does_not_matter() -> None:
    x, w = operands()
    y, loss = torch.arange(5).repeat(2)[:7], tl.Harmonic(exponent=3.0)
    for metric in ("euclidean", "manhattan", "canberra"):
        torch.testing.assert_close(loss(tl.distance(3 * x, 3 * w, metric), y), loss(tl.distance(x, w, metric), y))


def test_harmonic_is_cross_entropy_on_powers_of_any_distances() -> None:
    d = torch.tensor([[1.0, 2.0, 4.0]])
    p = d**-2 / (d**-2).sum()
    loss = tl.Harmonic(exponent=2.0)
    torch.testing.assert_close(loss(-d, torch.tensor([1])), -p[0, 1].log())
    torch.testing.assert_close(loss.predict(-d), p)


def test_released_toy_code_is_a_setting() -> None:
    """The squared distance plus 1e-4 to the power -n."""
    x, w = operands()
    powers = (torch.cdist(x, w) ** 2 + 1e-4) ** -3.0
    expected = -(powers[:, 1] / powers.sum(1)).log().mean()
    found = tl.Harmonic(exponent=6.0)(tl.distance(x, w, eps=1e-4), torch.ones(7, dtype=torch.long))
    torch.testing.assert_close(found, expected)


def test_elementwise_recipes_are_recipes() -> None:
    x, w = operands()
    scores = tl.distance(x, w, "canberra") * 2.0
    whole = scores.tensor()
    torch.testing.assert_close(scores.at(torch.tensor([3, 0])).tensor(), whole[[3, 0]])
    torch.testing.assert_close(scores.columns(torch.tensor([1])).tensor(), whole[:, 1:2])
    torch.testing.assert_close(scores.T.tensor(), whole.T)
    torch.testing.assert_close(scores.truncate(2).tensor(), (tl.distance(x[:, :2], w[:, :2], "canberra") * 2.0).tensor())
    own = tl.distance(x, metric="manhattan")
    assert (own.tensor().diagonal() == -torch.inf).all()
    y = tl.same_label(torch.tensor([0, 0, 1, 1, 2, 2, 2]))
    with tl.memory_budget(block=64, dense=0):
        blocked = tl.SupCon()(own, y)
    torch.testing.assert_close(tl.SupCon()(own, y), blocked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "taxicab"}, "metric: expected one of 'euclidean'"),
        ({"metric": "minkowski", "p": 0.5}, "p: expected a number >= 1"),
        ({"eps": -1.0}, "eps: expected a number >= 0"),
        ({"precision": torch.ones(4)}, "precision: expected with metric='mahalanobis'"),
        ({"metric": "mahalanobis", "precision": torch.ones(3)}, r"precision: expected shape \(4,\)"),
    ],
)
def test_refusals(arguments: dict[str, object], message: str) -> None:
    x, w = operands()
    with pytest.raises(ValueError, match=message):
        tl.distance(x, w, **arguments)  # type: ignore[arg-type]


def test_centres_learn_and_fit() -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 3) + 4 * torch.eye(3).repeat(20, 1)
    y = torch.arange(3).repeat(20)
    head = tl.Centers(3, 3, metric="mahalanobis")
    loss, step = tl.Harmonic(exponent=2.0), torch.optim.Adam(head.parameters(), 0.1)
    first = float(loss(head(x), y).detach())
    for _ in range(30):
        step.zero_grad()
        value = loss(head(x), y)
        value.backward()
        step.step()
    assert float(value.detach()) < first / 2
    assert head.log_precision is not None and head.log_precision.abs().max() > 0.1
    head.fit(x, y)
    torch.testing.assert_close(head.weight.data[1], x[y == 1].mean(0))
    with pytest.raises(ValueError, match="metric: expected one of"):
        tl.Centers(3, 3, metric="taxicab")
