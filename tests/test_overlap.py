"""Objectives on soft masks and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchlosses as tl
from torchlosses.losses.overlap import Confusion

SEGMENT: dict[str, Callable[[], tl.Loss]] = {
    "dice": lambda: tl.Dice(smooth=0.0),
    "dice_log_focus": lambda: tl.Dice(log=True, focus=0.3, norm=2),
    "focal_tversky": lambda: tl.Dice(alpha=0.3, beta=0.7, gamma=0.75, over="batch"),
    "dice_of_mean": lambda: tl.Dice(gamma=0.5, gamma_of="mean", absent="zero"),
    "class": lambda: tl.Dice(over="class", absent="drop", counts="l1"),
    "generalized": lambda: tl.GeneralizedDice(smooth=0.0),
    "jaccard_metric": lambda: tl.JaccardMetric(dataset=0.5, image=0.25, per_class=0.25, gamma=1.5, log=True),
    "jaccard_metric_norm": lambda: tl.JaccardMetric(norm=2, smooth=0.0),
    "lovasz": lambda: tl.LovaszSoftmax(),
    "lovasz_images": lambda: tl.LovaszSoftmax(over="image", absent="keep"),
    "unified": lambda: tl.UnifiedFocal(),
    "any": lambda: tl.AnyLoss(metric="gmean", slope=10.0, over="class"),
}


@pytest.mark.parametrize("name", SEGMENT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("empty", [False, True])
def test_finite_at_any_precision(name: str, dtype: torch.dtype, size: float, empty: bool) -> None:
    torch.manual_seed(0)
    scores = (torch.randn(2, 3, 4, 5) * size).to(dtype).requires_grad_()
    targets = (
        torch.zeros(2, 3, 4, 5) if empty else torch.nn.functional.one_hot(torch.zeros(2, 4, 5).long(), 3).movedim(-1, 1)
    )
    value = SEGMENT[name]()(scores, targets.to(dtype))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(scores.grad).all()
    assert value.dtype == torch.float32


@pytest.mark.parametrize("name", SEGMENT)
def test_gradients(name: str) -> None:
    torch.manual_seed(1)
    scores = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(2, 3, 5, dtype=torch.float64)
    if name.startswith("lovasz") or name == "jaccard_metric":  # soft targets would tie or have no class
        targets = torch.nn.functional.one_hot(torch.randint(0, 3, (2, 5)), 3).movedim(-1, 1).double()
    assert torch.autograd.gradcheck(lambda s: SEGMENT[name]()(s, targets), scores)


@pytest.mark.parametrize("name", SEGMENT)
def test_pixels_that_do_not_count(name: str) -> None:
    torch.manual_seed(2)
    loss, scores, labels = SEGMENT[name](), torch.randn(2, 3, 6), torch.randint(0, 3, (2, 6))
    part = loss(scores[:, :, :4], labels[:, :4])
    mask = torch.arange(6).expand(2, 6) < 4
    torch.testing.assert_close(loss(scores, labels, mask), part)
    settings = {n: getattr(loss, n) for n in type(loss).hyperparameters()}
    settings["ignore_index"] = 255
    labels[:, 4:] = 255
    torch.testing.assert_close(type(loss)(**settings)(scores, labels), part)


@pytest.mark.parametrize("name", SEGMENT)
def test_hard_targets_as_integers_or_masks_and_permutations(name: str) -> None:
    torch.manual_seed(3)
    loss, scores, labels = SEGMENT[name](), torch.randn(2, 3, 6), torch.randint(0, 3, (2, 6))
    labels[0, :3] = torch.arange(3)  # every class occurs
    labels[1, :3] = torch.arange(3)
    hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    value = loss(scores, labels)
    torch.testing.assert_close(loss(scores, hot), value)
    order = torch.randperm(6)
    torch.testing.assert_close(loss(scores[:, :, order], labels[:, order]), value)
    torch.testing.assert_close(loss(scores.flip(0), labels.flip(0)), value)


def test_one_rule_for_absent_classes() -> None:
    p = torch.tensor([[[0.6, 0.3], [0.4, 0.7]], [[0.5, 0.2], [0.5, 0.8]]])
    labels = torch.tensor([[0, 0], [0, 1]])  # image 0 lacks class 1

    def dice(i: int, c: int) -> Tensor:
        t = (labels[i] == c).float()
        return 1 - 2 * (p[i, c] * t).sum() / (p[i, c].sum() + t.sum())

    def value(over: str, absent: str) -> Tensor:
        return tl.Dice(activation="none", smooth=0.0, over=over, absent=absent)(p, labels)

    every = torch.stack([dice(i, c) for i in range(2) for c in range(2)])
    torch.testing.assert_close(value("image", "keep"), every.mean())
    torch.testing.assert_close(value("image", "zero"), (every.sum() - dice(0, 1)) / 4)
    torch.testing.assert_close(value("image", "drop"), (dice(0, 0) + (dice(1, 0) + dice(1, 1)) / 2) / 2)
    torch.testing.assert_close(value("class", "drop"), ((dice(0, 0) + dice(1, 0)) / 2 + dice(1, 1)) / 2)
    torch.testing.assert_close(value("class", "keep"), every.mean())
    labels[0] = 255
    loss = tl.Dice(activation="none", smooth=0.0, absent="drop", ignore_index=255)
    torch.testing.assert_close(loss(p, labels), (dice(1, 0) + dice(1, 1)) / 2)


def test_metric_form_is_minimal_at_soft_targets() -> None:
    torch.manual_seed(4)
    soft = torch.randn(2, 3, 7, dtype=torch.float64).softmax(1)
    scores = soft.log().requires_grad_()
    for loss in (tl.JaccardMetric(), tl.JaccardMetric(alpha=0.5, beta=0.5), tl.JaccardMetric(norm=2)):
        assert loss(scores, soft).abs() < 1e-12
        assert loss(scores + 0.1 * torch.randn_like(scores), soft) > 1e-3
    product = tl.Dice(over="batch", alpha=1.0, beta=1.0, smooth=0.0)
    assert product(scores, soft) > 0.1


def test_equalities() -> None:
    torch.manual_seed(5)
    scores, labels = torch.randn(2, 3, 8, dtype=torch.float64), torch.randint(0, 3, (2, 8))
    twin = tl.Dice(over="batch", alpha=1.0, beta=1.0, smooth=2e-3, absent="drop")
    torch.testing.assert_close(tl.JaccardMetric()(scores, labels), twin(scores, labels))
    squared = tl.Dice(norm=2), tl.Dice(norm=2, counts="l1")
    soft = torch.rand(2, 3, 8, dtype=torch.float64)
    torch.testing.assert_close(squared[0](scores, soft), squared[1](scores, soft))
    mixed = tl.UnifiedFocal(weight=0.3)(scores, labels)
    parts = 0.3 * tl.UnifiedFocal(weight=1.0)(scores, labels) + 0.7 * tl.UnifiedFocal(weight=0.0)(scores, labels)
    torch.testing.assert_close(mixed, parts)
    binary, hot = torch.randn(9, dtype=torch.float64), (torch.rand(9) > 0.5).double()
    f1 = tl.AnyLoss(metric="fbeta", slope=None)(binary, hot)
    dice = tl.Dice(over="all", activation="sigmoid", smooth=0.0)(binary[:, None], hot[:, None])
    torch.testing.assert_close(f1, dice)
    mcc = tl.AnyLoss(metric="mcc", slope=None, over="all", smooth=1e-5)(binary, hot)
    torch.testing.assert_close(tl.MatthewsCorrelation()(binary, hot), mcc)
    rows = tl.SelfAdjustingDice(alpha=0.0)(scores[:, :, 0], labels[:, 0])
    image = tl.Dice(smooth=1.0)(scores[:, :, :1], labels[:, :1])
    torch.testing.assert_close(rows, image)


@pytest.mark.parametrize("metric", ["accuracy", "fbeta", "gmean", "balanced_accuracy", "mcc", "jaccard"])
def test_any_loss_of_certain_predictions_is_the_metric(metric: str) -> None:
    targets = torch.tensor([1, 1, 1, 0, 0, 0, 0, 1])
    right = torch.tensor([1, 1, 0, 0, 0, 1, 0, 1])
    tp, fp, fn, tn = 3.0, 1.0, 1.0, 3.0
    wanted = {
        "accuracy": (tp + tn) / 8,
        "fbeta": 5 * tp / (5 * tp + 4 * fn + fp),
        "gmean": math.sqrt(tp / 4 * tn / 4),
        "balanced_accuracy": (tp / 4 + tn / 4) / 2,
        "mcc": (tp * tn - fp * fn) / 16,
        "jaccard": tp / (tp + fp + fn),
    }[metric]
    value = tl.AnyLoss(metric=metric, beta=2.0)(40.0 * (2 * right - 1), targets)
    torch.testing.assert_close(value, torch.tensor(1 - wanted))


@pytest.mark.parametrize("metric", ["accuracy", "fbeta", "gmean", "balanced_accuracy", "mcc", "jaccard"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["none", "all", "wrong", "huge"])
def test_any_loss_is_finite(metric: str, dtype: torch.dtype, kind: str) -> None:
    scores = torch.tensor([3.0, -2.0, 0.5, 0.0]) * (1e4 if kind == "huge" else 1)
    targets = {"none": torch.zeros(4), "all": torch.ones(4), "huge": torch.tensor([1.0, 0, 1, 0])}.get(
        kind, (scores < 0).float()
    )
    scores = scores.to(dtype).requires_grad_()
    value = tl.AnyLoss(metric=metric)(scores, targets)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(scores.grad).all()


def test_any_loss_by_column() -> None:
    torch.manual_seed(6)
    scores, targets = torch.randn(7, 3), (torch.rand(7, 3) > 0.4).float()
    loss = tl.AnyLoss(metric="gmean", slope=10.0)
    columns = torch.stack([loss(scores[:, c], targets[:, c]) for c in range(3)])
    torch.testing.assert_close(loss(scores, targets), columns.mean())
    counts = loss.confusion(scores[:, 0], targets[:, 0])
    torch.testing.assert_close(counts.tp + counts.fp + counts.fn + counts.tn, torch.full((1, 1, 1), 7.0))


@pytest.mark.parametrize("alpha", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("squared", [False, True])
def test_self_adjusting_dice(alpha: float, squared: bool) -> None:
    torch.manual_seed(7)
    loss = tl.SelfAdjustingDice(alpha=alpha, squared=squared)
    scores, labels = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 3, 0, -100])
    assert torch.autograd.gradcheck(lambda s: loss(s, labels), scores)
    dense = torch.autograd.grad(loss(scores, labels), scores)[0]
    with tl.memory_budget(block=64, dense=0):
        torch.testing.assert_close(torch.autograd.grad(loss(scores, labels), scores)[0], dense)
    assert not dense[5].any()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        extreme = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype=dtype, requires_grad=True)
        value = loss(extreme, torch.tensor([0, 0]))
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(extreme.grad).all()
    one = torch.ones(2, 1, requires_grad=True)
    loss(one, torch.zeros(2, dtype=torch.long)).backward()
    assert torch.isfinite(one.grad).all()


def test_self_adjusting_dice_of_existing_cells() -> None:
    scores = torch.tensor([[1.0, 0.3, -0.7, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    loss, hot = tl.SelfAdjustingDice(), torch.tensor([[0, 1, 0, 0]])
    torch.testing.assert_close(loss(scores, tl.multi_label(hot, mask)), loss(scores[:, :3], tl.multi_label(hot[:, :3])))


def test_lovasz_slow() -> None:
    """The extension at a vertex is the Jaccard loss itself, and between vertices it is linear along the order."""
    torch.manual_seed(8)
    truth = torch.tensor([1, 0, 1, 1, 0, 0])
    for _ in range(5):
        wrong = (torch.rand(6) > 0.5).double()
        p = torch.where(truth == 1, 1 - wrong, wrong)
        loss = tl.LovaszSoftmax(activation="none", absent="keep")(p[None, None], truth[None, None])
        predicted = p == 1
        both, either = (predicted & (truth == 1)).sum(), (predicted | (truth == 1)).sum()
        torch.testing.assert_close(loss, 1 - both.double() / either)


def test_lovasz_hinge_images_and_ties() -> None:
    torch.manual_seed(9)
    scores, targets = (
        torch.randn(3, 5, requires_grad=True),
        torch.tensor([[0, 0, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 1, 1]]),
    )
    single = torch.stack([tl.LovaszHinge()(s[None], t[None]) for s, t in zip(scores, targets, strict=True)])
    torch.testing.assert_close(tl.LovaszHinge()(scores, targets), single.mean())
    torch.testing.assert_close(single[0], (1 + scores[0]).max().relu())  # no foreground: the largest error
    tied = torch.zeros(1, 4, requires_grad=True)
    tl.LovaszHinge()(tied, torch.tensor([[1, 0, 0, 1]])).backward()
    assert torch.isfinite(tied.grad).all()
    torch.testing.assert_close(tl.LovaszHinge()(scores[:, None], targets[:, None]), single.mean())
    mask = torch.tensor([[True, True, True, False, False]]).expand(3, 5)
    part = tl.LovaszHinge()(scores[:, :3], targets[:, :3])
    torch.testing.assert_close(tl.LovaszHinge()(scores, targets, mask), part)
    torch.testing.assert_close(tl.LovaszHinge(ignore_index=255)(scores, targets.masked_fill(~mask, 255)), part)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_binary_forms_are_finite(dtype: torch.dtype, size: float) -> None:
    torch.manual_seed(10)
    scores = (torch.randn(2, 1, 6).clamp(-1, 1) * size).to(dtype).requires_grad_()
    for targets in (torch.zeros(2, 1, 6), torch.ones(2, 1, 6), (torch.rand(2, 1, 6) > 0.5).float()):
        for loss in (
            tl.LovaszHinge(),
            tl.MatthewsCorrelation(),
            tl.Dice(activation="sigmoid", over="all", smooth=0.0, focus=0.01, gamma=0.5),
        ):
            value = loss(scores, targets)
            (gradient,) = torch.autograd.grad(value, scores)
            assert torch.isfinite(value) and torch.isfinite(gradient).all()


def test_a_metric_of_ones_own() -> None:
    class Specificity(tl.AnyLoss):
        def score(self, counts: Confusion) -> Tensor:
            return counts.tn / counts.negatives

    scores, targets = torch.tensor([9.0, -9.0, -9.0, 9.0]), torch.tensor([0, 0, 0, 1])
    torch.testing.assert_close(Specificity()(scores, targets), torch.tensor(1 / 3))


def test_wrong_inputs_are_refused() -> None:
    scores = torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match=r"targets: expected integers \(2, 4\) or masks \(2, 3, 4\)"):
        tl.Dice()(scores, torch.zeros(2, 5).long())
    with pytest.raises(ValueError, match=r"class indices in \[0, 3\), got 7"):
        tl.Dice()(scores, torch.full((2, 4), 7))
    with pytest.raises(ValueError, match=r"mask: expected booleans \(2, 4\)"):
        tl.Dice()(scores, torch.zeros(2, 4).long(), torch.ones(2, 4))
    with pytest.raises(ValueError, match="scores: expected at least 2 classes"):
        tl.UnifiedFocal()(scores[:, :1], torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match="gamma"):
        tl.UnifiedFocal(gamma=2.0)
    with pytest.raises(ValueError, match="targets: expected shape"):
        tl.LovaszHinge()(scores[:, 0], torch.zeros(2, 3))
    with pytest.raises(ValueError, match="over"):
        tl.Dice(over="pixel")
