"""What judges a model, closed-form heads, decision rules, and the losses that belong to them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import torchlosses as tl
from torchlosses import metrics

KINDS = [torch.float32, torch.float16, torch.bfloat16]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- confidence and calibration --------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [metrics.max_logit, metrics.max_softmax, metrics.energy])
def test_confidence_of_a_recipe_needs_no_matrix(measure: object) -> None:
    x, w = draw(9, 3).requires_grad_(), draw(4, 3, seed=1)
    scores = tl.linear(x, w)
    dense = measure(scores.tensor())  # type: ignore[operator]
    with tl.memory_budget(block=64):
        found = measure(scores)  # type: ignore[operator]
    torch.testing.assert_close(found, dense)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), x)[0] for v in (found, dense)))


def test_energy_lies_between_the_maximum_and_it_plus_t_log_c() -> None:
    s = draw(8, 5)
    for temperature in (0.1, 1.0, 10.0):
        above = metrics.energy(s, temperature) - metrics.max_logit(s)
        assert (above >= 0).all() and (above <= temperature * math.log(5) + 1e-12).all()
    with pytest.raises(ValueError, match="temperature: expected a number > 0"):
        metrics.energy(s, 0.0)
    assert metrics.energy(torch.full((1, 2), 1e4)).isfinite().all()


def test_calibration_error() -> None:
    s, y = draw(50, 4), torch.arange(50) % 4
    p = s.softmax(-1)
    gap = ((p.argmax(-1) == y).double().mean() - p.amax(-1).mean()).abs()
    for norm in ("l1", "l2", "max"):  # one bin: the three agree
        torch.testing.assert_close(metrics.calibration_error(s, y, bins=1, norm=norm), gap)
    l1, l2, most = (metrics.calibration_error(s, y, norm=norm) for norm in ("l1", "l2", "max"))
    assert l1 <= l2 <= most
    torch.testing.assert_close(metrics.calibration_error(p, y, probabilities=True), l1)
    sure = torch.eye(2)[torch.tensor([0, 1, 1])]
    assert metrics.calibration_error(sure, torch.tensor([0, 1, 1]), probabilities=True) == 0
    with pytest.raises(ValueError, match="norm: expected one of 'l1'"):
        metrics.calibration_error(s, y, norm="l3")
    with pytest.raises(ValueError, match="targets: expected one class index"):
        metrics.calibration_error(s, y[:3])


# --- losses of a generator that can only be sampled ------------------------------------------------------------------


def test_square_loss_is_unbiased() -> None:
    p, y, draws = torch.tensor([0.5, 0.3, 0.2]), 1, 3
    expected = 0.0
    for outcome in itertools.product(range(3), repeat=draws):
        counts = torch.bincount(torch.tensor(outcome), minlength=3)[None]
        chance = math.prod(float(p[i]) for i in outcome)
        expected += chance * float(metrics.black_box_square_loss(counts, torch.tensor([y])))
    assert expected == pytest.approx(float(p @ p - 2 * p[y]), abs=1e-6)
    with pytest.raises(ValueError, match="counts: expected at least two draws"):
        metrics.black_box_square_loss(torch.tensor([[1, 0]]), torch.tensor([0]))


def test_log_loss_is_unbiased() -> None:
    """Draws unlike the target are Poisson(rate (1 - p_y)), whatever the number of draws like it."""
    p, rate = 0.6, 4.0
    m = torch.arange(60)
    mean = torch.tensor(rate * (1 - p), dtype=torch.float64)
    chance = torch.distributions.Poisson(mean).log_prob(m.double()).exp()
    found = metrics.black_box_log_loss(torch.stack([torch.full_like(m, 2), m], 1), torch.zeros_like(m), rate)
    assert float((chance * found).sum()) == pytest.approx(-math.log(p), abs=1e-9)
    with pytest.raises(ValueError, match="rate: expected a number > 0"):
        metrics.black_box_log_loss(torch.ones(1, 2, dtype=torch.long), torch.tensor([0]), -1.0)


# --- decisions -------------------------------------------------------------------------------------------------------


def test_a_tail_sensitive_utility_moves_decisions_to_the_tail() -> None:
    p = draw(200, 4).softmax(-1)
    y = torch.distributions.Categorical(p).sample()
    utility = torch.eye(4) + metrics.tail_sensitive_utility(4)
    careful = metrics.expected_utility(p, utility).argmax(-1)
    plain = metrics.expected_utility(p, torch.eye(4)).argmax(-1)
    assert (plain == p.argmax(-1)).all() and (careful >= plain).all()
    less, more = (metrics.false_head_rate(d, y, 4) for d in (careful, plain))
    assert (less <= more).all() and less.sum() < more.sum()


# --- fits in closed form ---------------------------------------------------------------------------------------------


def labelled(n: int = 30) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % 3
    return draw(n, 4) + 3 * torch.eye(4, dtype=torch.float64)[y], y


def test_mahalanobis_merges_batches_and_learns_new_classes() -> None:
    x, y = labelled()
    whole = metrics.MahalanobisScore(4, 4).fit(x, y)
    parts = metrics.MahalanobisScore(4, 4).fit(x[:7], y[:7]).partial_fit(x[7:], y[7:])
    torch.testing.assert_close(whole.precision, parts.precision)
    torch.testing.assert_close(whole(x), parts(x))
    assert (whole.class_scores(x)[:, 3] == -torch.inf).all() and whole(x).isfinite().all()
    far = x.mean(0, keepdim=True) + 50
    before = whole(far)
    assert whole.partial_fit(far + 0.1 * draw(5, 4), torch.full((5,), 3))(far) > before
    again = metrics.MahalanobisScore(4, 4)
    again.load_state_dict(whole.state_dict())
    torch.testing.assert_close(again.double()(x), whole(x), rtol=1e-4, atol=1e-4)


def test_mahalanobis_with_fewer_examples_than_features() -> None:
    x, y = draw(3, 8), torch.tensor([0, 1, 1])
    for shrinkage in (0.0, 0.1):
        score = metrics.MahalanobisScore(8, 2, shrinkage).fit(x, y)
        assert score(draw(5, 8, seed=2)).isfinite().all()
    assert torch.linalg.matrix_rank(score.precision) == 8
    with pytest.raises(ValueError, match="shrinkage: expected a number in"):
        metrics.MahalanobisScore(8, 2, 2.0)
    with pytest.raises(ValueError, match=r"labels: expected class indices in \[0, 2\)"):
        score.fit(x, torch.tensor([0, 1, 2]))


def test_perturbing_raises_the_score() -> None:
    x, y = labelled()
    score = metrics.MahalanobisScore(4, 3).fit(x, y)
    assert (score(metrics.perturbed(x, score, 0.01)) > score(x)).all()


@pytest.mark.parametrize("shared", [True, False])
def test_naive_bayes_is_the_density_times_the_frequency(shared: bool) -> None:
    x, y = labelled()
    head = tl.GaussianNaiveBayes(4, 4, shared_variance=shared).partial_fit(x[:11], y[:11]).partial_fit(x[11:], y[11:])
    means = torch.stack([x[y == c].mean(0) for c in range(3)])
    each = torch.stack([x[y == c].var(0, correction=0) for c in range(3)])
    spread = (each.mean(0).expand(3, 4) if shared else each) + 1e-9
    density = torch.distributions.Normal(means, spread.sqrt()).log_prob(x[:, None]).sum(-1)
    torch.testing.assert_close(head.log_density(x).tensor()[:, :3], density)
    joint = head(x).tensor()
    torch.testing.assert_close(joint[:, :3], density - math.log(3))
    assert (joint[:, 3] == -torch.inf).all()
    assert (joint.argmax(-1) == y).double().mean() > 0.8


def test_naive_bayes_keeps_its_precision_far_from_the_origin() -> None:
    x, y = labelled()
    near, far = (tl.GaussianNaiveBayes(4, 3).fit(x + shift, y)(x + shift).tensor() for shift in (0.0, 1e4))
    torch.testing.assert_close(near, far, rtol=1e-6, atol=1e-6)


# --- the Frechet mean ------------------------------------------------------------------------------------------------


def test_frechet_mean_with_the_discrete_metric_is_the_argmax() -> None:
    p = draw(20, 5).softmax(-1)
    assert (tl.FrechetMean(1 - torch.eye(5)).predict(p) == p.argmax(-1)).all()


@pytest.mark.parametrize("backward", ["polytope", "straight_through"])
def test_one_hot_passes_a_surrogate_gradient_through_the_distances(backward: str) -> None:
    p = draw(6, 3).softmax(-1).requires_grad_()
    rule = tl.FrechetMean(draw(3, 7).abs())
    direction = draw(6, 7, seed=4)
    hot = rule.one_hot(p, backward, eta=0.5)
    assert (hot.argmax(-1) == rule.predict(p)).all() and (hot.sum(-1) == 1).all()
    (found,) = torch.autograd.grad((hot * direction).sum(), p)
    surrogate = direction
    if backward == "polytope":
        moved = hot.detach() - 0.5 * direction
        surrogate = hot.detach() - tl.Sparsemax().predict(moved)
        assert surrogate.sum(-1).abs().max() < 1e-12  # a step inside the simplex keeps the sum
    torch.testing.assert_close(found, -surrogate @ rule.squares.T)
    with pytest.raises(ValueError, match="chain: expected True"):
        rule.one_hot(p, chain=False)
    with pytest.raises(ValueError, match="backward: expected 'polytope'"):
        rule.one_hot(p, "ste")


# --- learned links ---------------------------------------------------------------------------------------------------


def test_a_link_is_the_gradient_of_a_convex_function() -> None:
    torch.manual_seed(0)
    link = tl.LegendreLink(classes=4, blocks=1, hidden=4).double()
    link(draw(16, 3))  # the first batch sets the normalization
    for s in draw(5, 3, seed=1):
        jacobian = torch.autograd.functional.jacobian(lambda x: link(x[None])[0, :3], s)
        torch.testing.assert_close(jacobian, jacobian.T)
        assert torch.linalg.eigvalsh(jacobian).min() > 0


def test_legendre_tron_trains_its_link_and_respects_modes() -> None:
    torch.manual_seed(0)
    s, y = draw(12, 2).requires_grad_(), torch.arange(12) % 3
    loss = tl.LegendreTron(classes=3, hidden=4).double()
    norm = loss.link.maps[0].network.norms[0]
    loss.eval()(s, y)
    loss.train().terms(s, y)
    assert not norm.ready
    value = loss(s, y)
    assert norm.ready
    kept = norm.b.detach().clone()
    loss(s + 3, y)
    torch.testing.assert_close(norm.b.detach(), kept)
    free = [p for p in loss.parameters() if p.requires_grad]
    dense = torch.autograd.grad(value, [s, *free])
    assert all(g.isfinite().all() for g in dense)
    with tl.memory_budget(block=64, dense=0):
        blocked = torch.autograd.grad(loss(s, y), [s, *free])
    torch.testing.assert_close(blocked, torch.autograd.grad(loss(s, y), [s, *free]))
    assert torch.autograd.gradcheck(lambda x: loss(x, y), (s,))
    with torch.no_grad():
        torch.testing.assert_close(loss(s, y), loss(s.detach(), y))
    p = loss.predict(s)
    torch.testing.assert_close(p.sum(-1), torch.ones(12, dtype=torch.float64))
    again = tl.LegendreTron(classes=3, hidden=4).double()
    again.load_state_dict(loss.state_dict())
    torch.testing.assert_close(again(s, y), loss(s, y))


def test_legendre_tron_refusals() -> None:
    with pytest.raises(ValueError, match=r"scores: expected 2 columns \(classes - 1\)"):
        tl.LegendreTron(classes=3)(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="hidden: expected an even integer"):
        tl.LegendreTron(classes=3, hidden=3)
    with pytest.raises(ValueError, match=r"class indices in \[0, 3\)"):
        tl.LegendreTron(classes=3)(torch.zeros(1, 2), torch.tensor([3]))


@pytest.mark.parametrize("dtype", KINDS)
def test_legendre_tron_is_finite_at_extremes(dtype: torch.dtype) -> None:
    s = torch.tensor([[1e4, -1e4], [0.0, 0.0], [-1e4, 1e4]], dtype=dtype, requires_grad=True)
    value = tl.LegendreTron(classes=3)(s, torch.tensor([0, 1, 2]))
    assert value.isfinite()
    assert torch.autograd.grad(value, s)[0].isfinite().all()


# --- reciprocal points -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_reciprocal_points_by_hand_and_in_blocks(smoothing: float) -> None:
    f, r = draw(7, 3).requires_grad_(), draw(5, 3, seed=1).requires_grad_()
    y = torch.tensor([0, 4, 2, -100, 1, 3, 0])
    loss = tl.ReciprocalPoints(weight=0.3, temperature=2.0, label_smoothing=smoothing).double()
    with torch.no_grad():
        loss.radius.fill_(0.7)
    kept = y != -100
    apart = (f[:, None] - r).square().mean(-1)
    s = (apart - f @ r.T)[kept] / 2.0
    q = functional.one_hot(y[kept], 5).double()
    q = (1 - smoothing) * q + smoothing / 4 * (1 - q)
    hinge = (apart[kept].gather(1, y[kept, None]).squeeze(1) - loss.radius + 1).relu()
    expected = (-(q * s.log_softmax(-1)).sum(-1) + 0.3 * hinge).mean()
    inputs = (f, r, loss.radius)
    slopes = torch.autograd.grad(expected, inputs)
    for budget in ({"dense": 1 << 20}, {"block": 64, "dense": 0}):
        with tl.memory_budget(**budget):
            found = loss(tl.dot(f, r), y)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(torch.autograd.grad(found, inputs), slopes)
    torch.testing.assert_close(loss.predict(tl.dot(f, r))[kept], s.softmax(-1))


def test_reciprocal_points_refuse_other_scores() -> None:
    loss = tl.ReciprocalPoints()
    for scores in (torch.zeros(2, 3), tl.cosine(torch.ones(2, 3), torch.ones(3, 3))):
        with pytest.raises(TypeError, match=r"scores: expected ReciprocalPoints to be given dot\(features, points\)"):
            loss(scores, torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("dtype", KINDS)
def test_reciprocal_points_are_finite_for_large_features(dtype: torch.dtype) -> None:
    f = torch.tensor([[100.0, -100.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    value = tl.ReciprocalPoints()(tl.dot(f, torch.eye(2, dtype=dtype)), torch.tensor([0, 1]))
    assert value.isfinite() and torch.autograd.grad(value, f)[0].isfinite().all()


# --- decisions and weights in training -------------------------------------------------------------------------------

COUNTS = torch.tensor([90, 9, 1])


def test_integrated_gain_without_its_parts_is_cross_entropy() -> None:
    s, y = draw(6, 3), torch.tensor([0, 1, 2, 0, 1, -100])
    loss = tl.IntegratedGain(class_counts=COUNTS, class_weight=torch.ones(3), max_margin=0.0)
    torch.testing.assert_close(loss(s, y), tl.CrossEntropy()(s, y))
    weighted = tl.IntegratedGain(class_counts=COUNTS, max_margin=0.0)
    torch.testing.assert_close(weighted(s, y), tl.CrossEntropy()(s, tl.classes(y, weight=1 / COUNTS.double())))


def test_integrated_gain_divides_its_terms_differently() -> None:
    x, w = draw(6, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_()
    y = torch.tensor([0, 1, 2, 0, -100, 2])
    loss = tl.IntegratedGain(class_counts=COUNTS, utility=metrics.tail_sensitive_utility(3), alpha=0.5)

    def value(x: Tensor, w: Tensor) -> Tensor:
        return loss(tl.linear(x, w), y)

    assert torch.autograd.gradcheck(value, (x, w))
    dense = torch.autograd.grad(value(x, w), (x, w))
    with tl.memory_budget(block=32, dense=0):
        torch.testing.assert_close(torch.autograd.grad(value(x, w), (x, w)), dense)
    kept = y != -100
    margin = 30 * 0.5 * (COUNTS.min() / COUNTS.double()) ** 0.25
    hot = functional.one_hot(y[kept], 3)
    log_p = ((x @ w.T)[kept] - margin * hot).log_softmax(-1)
    weight = 1 / COUNTS.double()
    own = weight[y[kept]]
    entropy = -(own * (log_p * hot).sum(-1)).sum() / own.sum()
    gain = -(weight * loss.utility[y[kept]] * log_p).sum() / 5 / 0.5
    torch.testing.assert_close(value(x, w), entropy + gain)
    torch.testing.assert_close(loss.terms(tl.linear(x, w), y)["utility"], gain.detach())
    with pytest.raises(ValueError, match=r"utility: expected shape \(3, 3\)"):
        tl.IntegratedGain(class_counts=COUNTS, utility=torch.zeros(2, 2))(draw(2, 3), torch.tensor([0, 1]))


def test_repulsion_parts_particles() -> None:
    a, b = draw(4).requires_grad_(), draw(4, seed=1).requires_grad_()
    (slope,) = torch.autograd.grad(tl.repulsive_logdet([a, b]), a)
    assert ((slope * (a - b)) < 0).all()  # a descent step moves a away from b
    same = tl.repulsive_logdet([a, a])
    assert same.isfinite() and torch.autograd.grad(same, a)[0].eq(0).all()
    with pytest.raises(ValueError, match="particles: expected at least two"):
        tl.repulsive_logdet([a])


@pytest.mark.parametrize("dtype", KINDS)
def test_influence_balance_is_finite_where_the_influence_vanishes(dtype: torch.dtype) -> None:
    s = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    targets = tl.classes(torch.tensor([0, 0, 0])).given(feature_norm=torch.tensor([2.0, 2.0, 0.0]))
    rows = tl.InfluenceBalanced(alpha=1.0, reduction="none")(s, targets)
    assert rows.isfinite().all() and torch.autograd.grad(rows.sum(), s)[0].isfinite().all()


def test_influence_weights_may_be_constants() -> None:
    s = draw(5, 3).requires_grad_()
    y = torch.tensor([0, 1, 2, 1, 0])
    targets = tl.classes(y).given(feature_norm=draw(5, seed=2).abs())
    weight = 1000 / (2 * (1 - s.softmax(-1).gather(1, y[:, None]).squeeze(1)) * targets.fields["feature_norm"] + 1e-3)
    for detach in (False, True):
        used = weight.detach() if detach else weight
        expected = (used * functional.cross_entropy(s, y, reduction="none")).mean()
        found = tl.InfluenceBalanced(detach_weight=detach)(s, targets)
        torch.testing.assert_close(found, expected)
        (slope,) = torch.autograd.grad(expected, s, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(found, s)[0], slope)
    with pytest.raises(TypeError, match="feature_norm: InfluenceBalanced needs it"):
        tl.InfluenceBalanced()(s, y)


def test_likelihood_weights() -> None:
    p = torch.linspace(0, 1, 5)
    torch.testing.assert_close(tl.likelihood_weight(p, eta=0.0, gamma=2.0), (1 - p) ** 2)
    w = tl.likelihood_weight(p, eta=3.0)
    assert w.max() == 1 and w.min() == 0.75
    with pytest.raises(ValueError, match=r"likelihood: expected numbers in \[0, 1\]"):
        tl.likelihood_weight(torch.tensor([1.5]))


def test_residual_normalized_is_a_mean_of_directions() -> None:
    x, w = draw(8, 3), draw(4, 3, seed=1).requires_grad_()
    y = torch.tensor([0, 1, 2, 3, 0, 1, 2, -100])
    loss = tl.CrossEntropy(reduction=tl.ResidualNormalized())
    found = loss(tl.linear(x, w), y)
    rows = functional.cross_entropy(x @ w.T, y, reduction="none")[:7]
    expected = rows.sum() / (1 - (-rows).exp()).sum().detach()
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(found, w, retain_graph=True)
    torch.testing.assert_close(slope, torch.autograd.grad(expected, w)[0])
    with tl.memory_budget(block=64, dense=0):
        torch.testing.assert_close(torch.autograd.grad(loss(tl.linear(x, w), y), w)[0], slope)


def test_residual_normalized_where_everything_is_fitted() -> None:
    s = torch.tensor([[1e4, -1e4]], requires_grad=True)
    value = tl.CrossEntropy(reduction=tl.ResidualNormalized())(s, torch.tensor([0]))
    assert value == 0 and torch.autograd.grad(value, s)[0].isfinite().all()
    none = tl.CrossEntropy(reduction=tl.ResidualNormalized())(s, torch.tensor([-100]))
    assert none == 0 and none.requires_grad
    with pytest.raises(ValueError, match="cap: expected a number > 0"):
        tl.ResidualNormalized(cap=0.0)


@pytest.mark.parametrize("ties", [0.0, 0.5, 1.0])
def test_label_auc_counts_pairs(ties: float) -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.randint(6, (30, 4), generator=g).double()
    scores[0, 0], scores[1, 0] = torch.inf, -torch.inf
    targets = torch.rand(30, 4, generator=g) < 0.4
    targets[:, 2], targets[:, 3] = True, False
    found = metrics.label_auc(scores, targets, ties)
    for k in (0, 1):
        gap = scores[targets[:, k], k][:, None] - scores[~targets[:, k], k][None, :]
        expected = ((gap > 0).double() + ties * (gap == 0).double()).mean()
        assert found[k].item() == pytest.approx(expected.item())
    assert found[2:].isnan().all()
    assert torch.equal(metrics.label_auc(scores[:, 0], targets[:, 0], ties), found[:1])
    with pytest.raises(ValueError, match="ties: expected a number"):
        metrics.label_auc(scores, targets, 2.0)
    with pytest.raises(ValueError, match="targets: expected scores and targets"):
        metrics.label_auc(scores, targets[:, :2])
