"""Objectives that are not row rules: regression, overlap, whole batches of representations."""

from __future__ import annotations

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


@recipe("regression_vision/huber")
def huber(case: Case) -> Computed:
    return tl.Huber(delta=case.hp["delta"])(case["pred"], case["target"])


@recipe("regression_vision/smooth_l1")
def smooth_l1(case: Case) -> Computed:
    return tl.SmoothL1(delta=case.hp["beta"])(case["pred"], case["target"])


@recipe("regression_vision/embedding_regression_smooth_l1")
def embedding_smooth_l1(case: Case) -> Computed:
    return tl.SmoothL1(delta=case.hp.get("beta", 1.0))(case["pred"], case["target"])


@recipe("contrastive/barlow_twins")
def barlow_twins(case: Case) -> Computed:
    return tl.BarlowTwins(weight=case.hp["lambda_param"])(case["z1"], case["z2"])


@recipe("contrastive/linear_barlow")
def linear_barlow(case: Case) -> Computed:
    hp = case.hp
    loss = tl.BarlowTwins(weight=hp["lambda_"], normalize=hp["normalize"], symmetric=hp["symmetric"])
    return loss(case["z1"], case["z2"])


@recipe(*(f"imbalance_margin/monai_dice_{n}" for n in ("softmax", "batch", "sigmoid", "squared", "soft_label", "nobg")))
def monai_dice(case: Case) -> Computed:
    return _monai(case, 0.5, 0.5)


@recipe("imbalance_margin/monai_jaccard_softmax", "imbalance_margin/monai_jaccard_soft_label")
def monai_jaccard(case: Case) -> Computed:
    return _monai(case, 1.0, 1.0)


def _monai(case: Case, alpha: float, beta: float) -> Computed:
    hp = case.hp
    loss = tl.Dice(
        over="batch" if hp.get("batch") else "image",
        activation="sigmoid" if hp.get("sigmoid") else "softmax",
        alpha=alpha,
        beta=beta,
        smooth=hp.get("smooth_nr", 1e-5),
        smooth_denominator=hp.get("smooth_dr", 1e-5),
        counts="l1" if hp.get("soft_label") else "product",
        squared=bool(hp.get("squared_pred")),
        background=hp.get("include_background", True),
    )
    return loss(case["scores"], case["targets"])


@recipe("imbalance_margin/monai_tversky")
def monai_tversky(case: Case) -> Computed:
    hp = case.hp
    return tl.Dice(alpha=hp["alpha"], beta=hp["beta"], smooth=2 * hp["smooth"])(case["scores"], case["targets"])


@recipe("imbalance_margin/kornia_tversky")
def kornia_tversky(case: Case) -> Computed:
    hp = case.hp
    loss = tl.Dice(alpha=hp["alpha"], beta=hp["beta"], smooth=0.0, smooth_denominator=2 * hp["eps"], absent="drop")
    return loss(case["scores"], case["labels"])


@recipe("imbalance_margin/smp_dice_multiclass")
def smp_dice(case: Case) -> Computed:
    return tl.Dice(over="batch", smooth=2 * case.hp["smooth"], absent="zero")(case["scores"], case["labels"])


@recipe("imbalance_margin/smp_jaccard_multiclass")
def smp_jaccard(case: Case) -> Computed:
    loss = tl.Dice(over="batch", alpha=1.0, beta=1.0, smooth=2 * case.hp.get("smooth", 0.0), absent="zero")
    return loss(case["scores"], case["labels"])


@recipe("imbalance_margin/smp_focal_tversky")
def smp_focal_tversky(case: Case) -> Computed:
    hp = case.hp
    loss = tl.Dice(over="batch", alpha=hp["alpha"], beta=hp["beta"], smooth=0.0, absent="zero")
    return loss(case["scores"], case["labels"]) ** hp["gamma"]


@recipe("imbalance_margin/smp_dice_log_binary")
def smp_log(case: Case) -> Computed:
    return tl.Dice(over="all", activation="sigmoid", smooth=0.0, log=True)(case["scores"], case["targets"])


@recipe("imbalance_margin/dml_soft", "imbalance_margin/jml_soft", "imbalance_margin/tversky_soft")
def jdt_soft(case: Case) -> Computed:
    hp = case.hp
    loss = tl.Dice(over="batch", alpha=hp["alpha"], beta=hp["beta"], smooth=2 * hp["smooth"], counts="l1")
    return loss(case["scores"], case["targets"])


@recipe("imbalance_margin/dml_hard", "imbalance_margin/jml_hard")
def jdt_hard(case: Case) -> Computed:
    hp = case.hp
    loss = tl.Dice(over="batch", alpha=hp["alpha"], beta=hp["beta"], smooth=2 * hp["smooth"], counts="l1", absent="drop")
    return loss(case["scores"], case["targets"] if "targets" in case else case["labels"])
