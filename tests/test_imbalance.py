"""Long-tailed and multi-label objectives: blocks, gradients, extremes, state, equalities, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import torchlosses as tl
from torchlosses import catalog
from torchlosses.metrics import orthogonal_frame_distance
from torchlosses.training import BatchBinding, ClusterBatchSampler, balanced_clusters, balanced_subclasses

B, C = 7, 6
COUNTS = torch.tensor([500.0, 200.0, 60.0, 20.0, 5.0, 0.0], dtype=torch.float64)
LABELS = torch.tensor([0, 4, -100, 5, 1, 1, 3])
HOT = torch.tensor(
    [
        [1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 1],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 1],
    ]
)
MASK = torch.rand(B, C, generator=torch.Generator().manual_seed(3)) > 0.2
MASK[4] = False


def scores(dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(B, C, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def many() -> tl.Targets:
    return tl.multi_label(HOT, mask=MASK)


def single() -> tl.Targets:
    return tl.classes(LABELS)


def annotated() -> tl.Targets:
    return tl.graded(HOT - (torch.arange(C) % 3 == 1).long() * (1 - HOT), mask=MASK)


def held_out() -> tl.Targets:
    return single().given(heldout_scores=scores(seed=5).detach())


def subclasses() -> tl.Targets:
    ids = torch.tensor([0, 0, 1, 2, 2, 3, 0])
    given = {"subclass": ids, "example": torch.tensor([0, 0, 1, 2, 3, 4, 5])}
    return tl.same_label(torch.tensor([0, 0, 0, 1, 1, 2, 0])).given(**given)


LOSSES: dict[str, tuple[Callable[..., tl.RowLoss], Callable[[], tl.Targets]]] = {
    "bce of softmax": (lambda **k: tl.BinaryCrossEntropy(link="softmax", **k), many),
    "asl": (tl.AsymmetricMultiLabel, many),
    "asl without clip": (lambda **k: tl.AsymmetricMultiLabel(clip=0.0, gamma_neg=0.5, gamma_pos=0.5, **k), many),
    "mfm": (lambda **k: tl.MultiFocalModifier(class_counts=COUNTS, detach_focus=False, **k), many),
    "partial asl": (lambda **k: tl.PartialAsymmetric(detach_focus=False, **k), annotated),
    "hill": (tl.Hill, many),
    "asl of one label": (lambda **k: tl.AsymmetricSingleLabel(gamma_pos=0.5, **k), single),
    "class-balanced": (lambda **k: tl.ClassBalanced(tl.CrossEntropy(), class_counts=COUNTS, **k), single),
    "distribution-balanced": (lambda **k: tl.DistributionBalanced(class_counts=COUNTS, examples=400, **k), many),
    "class-balanced cells": (
        lambda **k: tl.DistributionBalanced(
            class_counts=COUNTS, examples=600, weighting="class_balanced", gamma=0.5, balance=(0.3, 0.7), **k
        ),
        many,
    ),
    "sigmoid ldam": (lambda **k: tl.SigmoidLDAM(class_counts=COUNTS, **k), many),
    "sigmoid vector scaling": (lambda **k: tl.SigmoidVectorScaling(positive_factor=0.7, negative_shift=-0.2, **k), many),
    "equalization": (lambda **k: tl.Equalization(class_counts=COUNTS, examples=1000, threshold=0.03, **k), many),
    "equalization v2": (lambda **k: tl.EqualizationV2(classes=C, **k), many),
    "seesaw": (lambda **k: tl.Seesaw(classes=C, **k), single),
    "mat": (lambda **k: tl.MemorizationAware(temperature=1.0, **k), held_out),
    "decoupled": (lambda **k: tl.DecoupledSoftmax(temperature=1.0, **k), many),
    "soft top-k": (lambda **k: tl.SoftTopK(k=2, temperature=1.0, **k), many),
    "soft top-k of all": (lambda **k: tl.SoftTopK(k=None, temperature=1.0, **k), many),
    "triplet ohnm": (lambda **k: tl.TripletOHNM(k=4, positives=2, **k), many),
    "hinge contrastive": (tl.HingeContrastive, many),
    "prob contrastive": (tl.ProbContrastive, many),
    "csel": (lambda **k: tl.ClassSpecificHingeEmbedding(class_counts=COUNTS + 1, gamma=0.5, **k), many),
}
FROZEN = {"seesaw", "triplet ohnm"}  # what they detach moves with the scores
NAMES = pytest.mark.parametrize("name", LOSSES)


def evaluate(name: str, s: Tensor, **options: Any) -> Tensor:
    loss, targets = LOSSES[name]
    return loss(**options).to(torch.float64)(s, targets())


@NAMES
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_blocked_equals_dense(name: str, reduction: str) -> None:
    found = []
    for limits in ({"dense": 1 << 30}, {"dense": 0, "block": 128}):
        s = scores()
        with tl.memory_budget(**limits):
            value = evaluate(name, s, reduction=reduction)
            (gradient,) = torch.autograd.grad((value * torch.arange(1, value.numel() + 1).reshape(value.shape)).sum(), s)
        found.append((value.detach(), gradient))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in FROZEN])
def test_gradients_are_right(name: str) -> None:
    assert torch.autograd.gradcheck(lambda s: evaluate(name, s, reduction="none"), scores())


@NAMES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_scores_stay_finite(name: str, dtype: torch.dtype) -> None:
    loss, targets = LOSSES[name]
    generator = torch.Generator().manual_seed(1)
    for s in (
        1e4 * torch.randint(-1, 2, (B, C), generator=generator).to(dtype),
        torch.zeros(B, C, dtype=dtype),
        1e4 * torch.randn(B, C, generator=generator).clamp(-3, 3).to(dtype),
        50 * torch.randn(B, C, generator=generator).to(dtype),
    ):
        s.requires_grad_()
        value = loss()(s, targets())
        value.backward()
        assert value.isfinite(), value
        assert s.grad is not None and s.grad.isfinite().all()


@NAMES
def test_masked_cells_and_ignored_rows_take_no_gradient(name: str) -> None:
    s = scores()
    value = evaluate(name, s, reduction="none")
    (gradient,) = torch.autograd.grad(value.sum(), s)
    if LOSSES[name][1] in (many, annotated):
        assert not gradient[~MASK].any()
        assert value[4] == 0
        moved = torch.where(MASK, s.detach(), 1e3)
        torch.testing.assert_close(evaluate(name, moved, reduction="none"), value.detach())
    else:
        assert value[2] == 0 and not gradient[2].any()


@NAMES
def test_a_batch_without_rows_gives_zero(name: str) -> None:
    loss, targets = LOSSES[name]
    s = torch.zeros(0, C, dtype=torch.float64, requires_grad=True)
    value = loss()(s, targets().at(torch.zeros(0, dtype=torch.long)))
    value.backward()
    assert value == 0


@pytest.mark.parametrize("name", ["decoupled", "soft top-k", "triplet ohnm"])
def test_rows_without_right_columns_are_empty(name: str) -> None:
    loss, _ = LOSSES[name]
    rows = loss(reduction="none")(scores(), tl.multi_label(HOT))
    assert rows[1] == 0
    mean = loss(over="valid")(scores(), tl.multi_label(HOT))
    torch.testing.assert_close(mean, rows.sum() / (B - 1))


def test_rebalanced_weights_of_a_row_without_right_columns_are_the_limit() -> None:
    loss = tl.DistributionBalanced(class_counts=COUNTS, examples=600, bias=0.0, neg_scale=1.0, gamma=None)
    value = loss(scores(), tl.multi_label(torch.zeros(B, C, dtype=torch.bool)))
    torch.testing.assert_close(value, 1.1 * functional.softplus(scores()).mean())


# --- equalities ----------------------------------------------------------------------------------------------------

EVEN = torch.full((C,), 30.0, dtype=torch.float64)
PLAIN: dict[str, tuple[tl.RowLoss, tl.RowLoss]] = {
    "asl is bce": (
        tl.AsymmetricMultiLabel(gamma_neg=0.0, gamma_pos=0.0, clip=0.0),
        tl.BinaryCrossEntropy(columns="sum"),
    ),
    "asl is focal": (
        tl.AsymmetricMultiLabel(gamma_neg=2.0, gamma_pos=2.0, clip=0.0),
        tl.SigmoidFocal(alpha=None, columns="sum"),
    ),
    "mfm of even counts": (
        tl.MultiFocalModifier(class_counts=EVEN, gamma_neg=3.0),
        tl.AsymmetricMultiLabel(gamma_neg=4.0, gamma_pos=0.0, detach_focus=True),
    ),
    "sigmoid ldam": (tl.SigmoidLDAM(class_counts=COUNTS, margin=0.0), tl.BinaryCrossEntropy()),
    "sigmoid vs": (tl.SigmoidVectorScaling(scale=1.0), tl.BinaryCrossEntropy()),
    "equalization": (
        tl.Equalization(class_counts=COUNTS, examples=1000, threshold=0.0),
        tl.BinaryCrossEntropy(columns="sum"),
    ),
    "distribution-balanced": (
        tl.DistributionBalanced(class_counts=COUNTS, examples=600, weighting="none", bias=0.0, neg_scale=1.0, balance=1.0),
        tl.SigmoidFocal(alpha=None),
    ),
    "decoupled": (tl.DecoupledSoftmax(), tl.InfoNCE(temperature=0.05, positives_in_denominator="own")),
    "triplet": (
        tl.TripletOHNM(k=1, weighted=False, margin=0.2),
        tl.TripletMargin(mining="hard", margin=0.2, over="rows"),
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_named_equalities_of_many_labels(name: str) -> None:
    ours, plain = (loss(scores(), tl.multi_label(HOT, mask=MASK)) for loss in PLAIN[name])
    torch.testing.assert_close(ours, plain)


SINGLE: dict[str, tuple[tl.RowLoss, tl.RowLoss]] = {
    "asl is cross-entropy": (tl.AsymmetricSingleLabel(gamma_neg=0.0), tl.CrossEntropy(label_smoothing=0.1)),
    "asl is focal": (tl.AsymmetricSingleLabel(gamma_pos=2.0, label_smoothing=0.0), tl.Focal(gamma=2.0)),
    "class-balanced": (tl.ClassBalanced(tl.Focal(), class_counts=EVEN), tl.Focal()),
    "class-balanced at beta 0": (tl.ClassBalanced(tl.Focal(), class_counts=COUNTS, beta=0.0), tl.Focal()),
    "seesaw": (tl.Seesaw(classes=C, p=0.0, q=0.0), tl.CrossEntropy()),
}


@pytest.mark.parametrize("name", SINGLE)
def test_named_equalities_of_one_label(name: str) -> None:
    ours, plain = (loss.double()(scores(), single()) for loss in SINGLE[name])
    torch.testing.assert_close(ours, plain)


def test_mat_with_a_prior_for_everybody_is_logit_adjustment() -> None:
    held = (COUNTS + 1).log().expand(B, C)
    ours = tl.MemorizationAware(temperature=1.0, eps=1e-30, transition=torch.eye(C))(
        scores(), single().given(heldout_scores=held)
    )
    torch.testing.assert_close(ours, tl.LogitAdjusted(class_counts=COUNTS + 1)(scores(), single()))


def test_sbcl_without_class_term_is_supcon_of_subclasses() -> None:
    x = scores()
    ours = tl.SubclassBalancedContrastive(gamma=0.0)(tl.cosine(x), subclasses())
    plain = tl.SupCon(base_temperature=0.07)(tl.cosine(x), tl.same_label(subclasses().fields["subclass"]))
    torch.testing.assert_close(ours, plain)


def test_prices_of_softmax_probabilities_are_those_of_torch() -> None:
    s = scores()
    hot = functional.one_hot(LABELS.clamp(min=0), C).double()
    expected = functional.binary_cross_entropy(s.softmax(-1), hot)
    torch.testing.assert_close(tl.BinaryCrossEntropy(link="softmax")(s, hot), expected)
    one = tl.BinaryCrossEntropy(link="softmax")(torch.zeros(1, 1), torch.ones(1, 1))
    assert one < 1e-6


# --- stop-gradients ------------------------------------------------------------------------------------------------


def test_detached_focus_changes_the_gradient_and_not_the_value() -> None:
    s, y = scores(), tl.multi_label(HOT)
    whole = tl.AsymmetricMultiLabel(clip=0.0)(s, y)
    part = tl.AsymmetricMultiLabel(clip=0.0, detach_focus=True)(s, y)
    torch.testing.assert_close(whole, part)
    p = s.detach().sigmoid()
    by_hand = torch.where(HOT > 0, -((1 - p) ** 2), p**5) / B  # focus (g+ = 1, g- = 4) times d softplus
    torch.testing.assert_close(torch.autograd.grad(part, s)[0], by_hand)
    assert (torch.autograd.grad(whole, s)[0] - by_hand).abs().max() > 1e-3


def test_seesaw_factors_carry_no_gradient() -> None:
    s = scores()
    loss = tl.Seesaw(classes=C).double()
    loss.counts.copy_(COUNTS)
    loss.eval()
    (gradient,) = torch.autograd.grad(loss(s, single()), s)
    y = LABELS.clamp(min=0)
    p = s.detach().softmax(-1)
    n = COUNTS.clamp(min=1)
    factor = (n / n[y][:, None]).clamp(max=1) ** 0.8 * (p / p[torch.arange(B), y].clamp(min=1e-2)[:, None]).clamp(min=1) ** 2
    factor[torch.arange(B), y] = 1.0
    t = s.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(functional.cross_entropy(t + factor.log(), LABELS), t)
    torch.testing.assert_close(gradient, expected)


# --- state ---------------------------------------------------------------------------------------------------------


def test_seesaw_counts_labels_once_per_training_call() -> None:
    loss = tl.Seesaw(classes=C)
    with tl.memory_budget(dense=0, block=64):
        loss(scores(torch.float32), single()).backward()
    assert loss.counts.tolist() == [1, 2, 0, 1, 1, 1]
    loss.terms(scores(torch.float32), single())
    loss.eval()
    loss(scores(torch.float32), single())
    assert loss.counts.sum() == 6
    loaded = tl.Seesaw(classes=C)
    loaded.load_state_dict(loss.state_dict())
    assert torch.equal(loaded.counts, loss.counts)


def test_equalization_adds_up_gradients_once_per_training_call() -> None:
    states = []
    for limits in ({"dense": 1 << 30}, {"dense": 0, "block": 64}):
        loss = tl.EqualizationV2(classes=C, background=True).double()
        with tl.memory_budget(**limits):
            for seed in (0, 1):
                loss(scores(seed=seed), single()).backward()
        states.append((loss.positive.clone(), loss.negative.clone()))
        loss.eval()
        loss(scores(), single())
        assert torch.equal(loss.positive, states[-1][0])
    torch.testing.assert_close(states[0], states[1])
    assert states[0][0].shape == (C - 1,)
    push = torch.abs(scores().detach().sigmoid() - functional.one_hot(LABELS.clamp(min=0), C))
    push[LABELS < 0] = 0
    first = tl.EqualizationV2(classes=C).double()
    first(scores(), single())
    where = functional.one_hot(LABELS.clamp(min=0), C).bool()
    torch.testing.assert_close(first.positive, torch.where(where, push, 0).sum(0))  # at ratio 100 every weight is 1


@pytest.mark.parametrize("name", ["seesaw", "equalization v2"])
def test_recomputation_sees_the_state_of_the_first_evaluation(name: str) -> None:
    found = []
    for limits in ({"dense": 1 << 30}, {"dense": 0, "block": 64}):
        make, targets = LOSSES[name]
        loss, s = make(reduction="none").double(), scores()
        with tl.memory_budget(**limits):
            loss(s.detach(), targets())
            loss(s, targets()).square().sum().backward()
        found.append(s.grad)
    torch.testing.assert_close(found[1], found[0])


# --- soft top-k ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 5])
def test_soft_top_k_sums_to_k_and_differentiates(k: int) -> None:
    s = scores()
    torch.testing.assert_close(tl.soft_top_k(s, k).sum(-1), torch.full((B,), float(k), dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda x: tl.soft_top_k(x, k), s)
    assert torch.autograd.gradgradcheck(lambda x: tl.soft_top_k(x, k), s)
    hard = tl.soft_top_k(s, k, alpha=1e4)
    assert torch.equal(hard.round(), torch.zeros_like(s).scatter(1, s.topk(k).indices, 1.0))


def test_soft_top_k_takes_one_k_per_row_and_moves_with_the_scores() -> None:
    s, k = scores(), torch.arange(1, 6, dtype=torch.float64).repeat(2)[:B]
    torch.testing.assert_close(tl.soft_top_k(s, k).sum(-1), k)
    torch.testing.assert_close(tl.soft_top_k(s + 3.0, k), tl.soft_top_k(s, k))
    many_ties = tl.soft_top_k(torch.zeros(1, 100_000), 5)
    torch.testing.assert_close(many_ties, torch.full((1, 100_000), 5e-5))


def test_soft_top_k_loss_of_clear_rows_is_zero() -> None:
    s = torch.tensor([[50.0, 49.0, 0.0, -5.0, 1.0, 2.0]])
    assert tl.SoftTopK(k=2, temperature=1.0)(s, tl.multi_label(s > 10)) < 1e-6
    assert tl.SoftTopK(k=1, temperature=1.0)(s, tl.multi_label(s > 10)) > 0.3


# --- indices of right columns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [tl.SupCon(), tl.BinaryCrossEntropy(), tl.DecoupledSoftmax(), tl.CrossEntropy()])
@pytest.mark.parametrize("limits", [{"dense": 1 << 30}, {"dense": 0, "block": 256}])
def test_indices_say_what_a_matrix_says(loss: tl.RowLoss, limits: dict[str, int]) -> None:
    index = torch.tensor([[3, 5, 3], [0, -1, -1], [-1, -1, -1], [1, -1, 1]])
    hot = torch.zeros(4, C, dtype=torch.bool)
    for row, column in [(0, 3), (0, 5), (1, 0), (3, 1)]:
        hot[row, column] = True
    x, w = scores()[:4], scores(seed=2)[:C]
    with tl.memory_budget(**limits):
        found = [loss(tl.cosine(x, w), t) for t in (tl.multi_index(index), tl.multi_label(hot))]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(*(torch.autograd.grad(v, w, retain_graph=True) for v in found))


# --- weights, predictions, refusals --------------------------------------------------------------------------------


KNOWN_AS = {
    "Partial FC": "ClassSampling",
    "sampled_softmax_loss": "SampledSoftmax",
    "COMIC": "MultiFocalModifier",
    "DEXML": "DecoupledSoftmax",
    "NGAME": "TripletOHNM",
    "DatasetEquity": "ClassBalanced",
    "WeightedBCE": "BinaryCrossEntropy",
    "NormalizedSoftmax": "CrossEntropy",
    "OneVsAllMargin": "SphereFace2",
    "RF-DLC": "IntegratedGain",
    "DiceSemimetric": "JaccardMetric",
    "AUCM": "AUCMargin",
    "SOAP": "AveragePrecision",
    "CDT": "VectorScaling",
}


@pytest.mark.parametrize("name", KNOWN_AS)
def test_names_of_the_literature_lead_to_a_class(name: str) -> None:
    assert catalog.find(name).entry.name == KNOWN_AS[name]


def test_ranked_label_weights_hand_the_shares_out_in_reverse() -> None:
    weights = tl.label_weights(torch.tensor([3, 0, 5, 3]), 10, mode="ranked")
    assert weights.tolist() == pytest.approx([30.0, 50.0, 0.0, 30.0])  # a label without examples has a share of 0, too
    assert tl.label_weights(torch.tensor([3, 0, 5]), 10).isfinite().all()


def test_effective_numbers() -> None:
    assert torch.equal(tl.effective_number(COUNTS, beta=0.0), torch.ones(C, dtype=torch.float64))
    torch.testing.assert_close(tl.effective_number(COUNTS, 1.0, normalize=False), 1 / COUNTS.clamp(min=1))
    torch.testing.assert_close(tl.effective_number(COUNTS).sum(), torch.tensor(float(C), dtype=torch.float64))


def test_predictions_know_neither_margin_nor_shift() -> None:
    s = scores().detach()
    torch.testing.assert_close(tl.SigmoidLDAM(class_counts=COUNTS).predict(s), s.sigmoid())
    torch.testing.assert_close(tl.Seesaw(classes=C).predict(s), s.softmax(-1))
    torch.testing.assert_close(tl.BinaryCrossEntropy(link="softmax").predict(s), s.softmax(-1))
    torch.testing.assert_close(tl.HingeContrastive().predict(s), s)


def test_class_temperatures_follow_the_spread() -> None:
    x = torch.cat([torch.randn(40, 3), 5 * torch.randn(40, 3), 20 * torch.randn(40, 3)])
    y = torch.arange(3).repeat_interleave(40)
    found = tl.SubclassBalancedContrastive.temperatures(x, y, torch.arange(120) // 20)
    assert found[0] < found[1] < found[2]
    single = tl.SubclassBalancedContrastive.temperatures(x, y, y)
    assert torch.equal(single, torch.full((3,), 0.1))


def test_mat_estimates_what_heldout_predictions_hide() -> None:
    held = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    found = tl.MemorizationAware.estimate(held, torch.tensor([0, 0, 1, 1]), temperature=0.01)
    torch.testing.assert_close(found, torch.tensor([[2 / 3, 1 / 3], [0.0, 1.0]]))


SQUARE = torch.zeros(3, 3)
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: tl.AsymmetricMultiLabel(clip=1.0), ValueError, r"clip: expected a number in \[0, 1\), got 1.0"),
    (lambda: tl.DistributionBalanced(class_counts=COUNTS), TypeError, "examples: required"),
    (lambda: tl.DistributionBalanced(class_counts=COUNTS, examples=9, balance=(1, 2, 3)), ValueError, "balance: expected"),
    (lambda: tl.SigmoidLDAM(class_counts=COUNTS)(SQUARE, SQUARE), ValueError, r"class_counts: expected shape \(3,\)"),
    (lambda: tl.Equalization(class_counts=[0.1], examples=9), TypeError, "class_counts: expected a tensor"),
    (lambda: tl.label_weights(COUNTS, 9, mode="rank"), ValueError, "mode: expected 'frequency' or 'ranked'"),
    (lambda: tl.EqualizationV2(classes=0), TypeError, "classes: expected an integer > 0"),
    (lambda: tl.Seesaw(classes=4)(SQUARE, torch.arange(3)), ValueError, "classes: expected 4 columns of scores, got 3"),
    (lambda: tl.MemorizationAware()(SQUARE, torch.arange(3)), TypeError, "heldout_scores: .* needs shape"),
    (lambda: tl.SoftTopK(k=3)(SQUARE, SQUARE), ValueError, "k: expected less than the 3 columns"),
    (lambda: tl.soft_top_k(SQUARE, 3), ValueError, r"k: expected numbers in \(0, 3\)"),
    (lambda: tl.soft_top_k(SQUARE, 1, alpha=0.0), ValueError, "alpha: expected a number > 0"),
    (lambda: tl.effective_number(COUNTS, beta=2.0), ValueError, r"beta: expected a number in \[0, 1\]"),
    (
        lambda: tl.ClassBalanced(tl.BinaryCrossEntropy(), class_counts=torch.ones(3))(SQUARE, tl.multi_label(SQUARE)),
        TypeError,
        "ClassBalanced expected one right class per row",
    ),
    (
        lambda: tl.SubclassBalancedContrastive()(tl.cosine(SQUARE), tl.same_label(torch.arange(3))),
        TypeError,
        "subclass: SubclassBalancedContrastive needs it",
    ),
    (lambda: tl.ReLUSupCon()(SQUARE, tl.same_label(torch.arange(3))), TypeError, "ReLUSupCon expected a comparison"),
    (
        lambda: tl.SupCon()(SQUARE, tl.multi_index(torch.tensor([[0], [3], [-1]]))),
        ValueError,
        r"expected class indices in \[0, 3\), got 3 at row 1",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED)
def test_wrong_inputs_are_refused(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_ties_go_to_the_lowest_column() -> None:
    s = torch.tensor([[0.0, 0.5, 0.5, 0.5]], requires_grad=True)
    tl.TripletOHNM(k=1, weighted=False)(s, tl.classes(torch.tensor([0]))).backward()
    assert s.grad is not None and s.grad.tolist() == [[-1.0, 1.0, 0.0, 0.0]]


def test_relu_takes_the_negative_parts_before_normalizing() -> None:
    x = scores()
    y = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    ours = tl.ReLUSupCon()(tl.cosine(x), tl.same_label(y))
    torch.testing.assert_close(ours, tl.SupCon(over="valid")(tl.cosine(x.relu()), tl.same_label(y)))
    assert math.isfinite(tl.ReLUSupCon()(tl.cosine(-x.abs()), tl.same_label(y)).item())


# --- batches and subclasses ----------------------------------------------------------------------------------------


def test_balanced_clusters_are_balanced_and_find_blobs() -> None:
    g = torch.Generator().manual_seed(0)
    centers = torch.eye(8)[:4]
    blob = torch.arange(4).repeat_interleave(25)
    x = centers[blob] + 0.05 * torch.randn(100, 8, generator=g)
    found = balanced_clusters(x, 4, g)
    assert found.bincount().tolist() == [25] * 4
    assert all(len(found[blob == b].unique()) == 1 for b in range(4))
    uneven = balanced_clusters(x[:10], 3, g).bincount()
    assert uneven.sum() == 10 and uneven.max() - uneven.min() <= 1
    assert balanced_clusters(torch.zeros(5, 2), 5, g).bincount().tolist() == [1] * 5
    with pytest.raises(ValueError, match=r"clusters: expected an integer in \[1, 5\], got 6"):
        balanced_clusters(torch.zeros(5, 2), 6)


def test_subclasses_stay_within_their_class() -> None:
    y = torch.tensor([0] * 40 + [1] * 25 + [2] * 12)
    found = balanced_subclasses(torch.randn(77, 3), y)
    assert [len(found[y == c].unique()) for c in range(3)] == [3, 2, 1]
    assert len(found.unique()) == 6


def test_cluster_batches_hold_neighbours_and_every_example_once() -> None:
    blob = torch.arange(64) % 8
    circle = torch.polar(torch.ones(8), torch.arange(8) * math.pi / 4)
    x = torch.view_as_real(circle)[blob]
    batches = ClusterBatchSampler(64, batch_size=8, cluster_size=2, doublings=(1, 2))
    sizes = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        batches.refresh(x)
        sizes.append(batches.cluster_size)
        order = list(batches)
        assert sorted(i for batch in order for i in batch) == list(range(64)) and len(order) == len(batches)
    assert sizes == [2, 4, 8]
    assert sum(len(blob[batch].unique()) for batch in order) <= 16  # shuffled: about 5 of 8 in each
    assert list(batches) == order
    batches.set_epoch(5)
    assert list(batches) != order


def test_binding_examples_join_every_batch() -> None:
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    bound = BatchBinding([[0, 1], [2, 3], [4, 5]], y)
    assert all(set(y[batch].tolist()) == {0, 1, 2} and len(set(batch)) == len(batch) for batch in bound)


def test_orthogonal_frames() -> None:
    x, y = torch.eye(5)[torch.arange(20) % 5], torch.arange(20) % 5
    assert orthogonal_frame_distance(3 * x, y) < 1e-6
    assert orthogonal_frame_distance(x + 1, y) > 0.1


def test_drawn_right_columns_are_asked_for_alone() -> None:
    s, hot = scores(), tl.multi_label(torch.ones(B, C).index_fill(1, torch.tensor([0]), 0))
    loss = tl.SoftTopK(k=2, temperature=1.0, sample=True, seed=1, reduction="none")
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    first, second = loss(s, hot), loss(s, hot)
    assert not torch.equal(first, second)
    loss.load_state_dict(state)
    with tl.memory_budget(dense=0, block=64):
        torch.testing.assert_close(loss(s, hot), first)
    few = tl.multi_label(functional.one_hot(LABELS.clamp(min=0), C))
    torch.testing.assert_close(loss(s, few), tl.SoftTopK(k=2, temperature=1.0, reduction="none")(s, few))
    row = [  # every pair of right columns that could have been drawn in row 0
        tl.SoftTopK(k=2, temperature=1.0)(s[:1, [0, i, j]], tl.multi_label(torch.tensor([[0, 1, 1]])))
        for i in range(1, C)
        for j in range(i + 1, C)
    ]
    assert any(torch.isclose(first[0], pair) for pair in row)


def test_one_drawn_right_column_is_right_on_average() -> None:
    s = scores().detach()
    loss = tl.DecoupledSoftmax(temperature=1.0, sample=True, seed=0)
    mean = torch.stack([loss(s, tl.multi_label(HOT)) for _ in range(2000)]).mean()
    torch.testing.assert_close(mean, tl.DecoupledSoftmax(temperature=1.0)(s, tl.multi_label(HOT)), rtol=0.01, atol=0)


def test_recovered_labels_need_a_sure_and_an_unusual_probability() -> None:
    s = torch.tensor([[4.0, 4.0, 1.5], [4.0, 0.0, 0.0]])
    found = tl.recovered_labels(s, torch.tensor([[0, 0, 1], [0, 0, 0]]))
    assert found.tolist() == [[False, True, True], [False, False, False]]
