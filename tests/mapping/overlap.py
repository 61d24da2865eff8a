"""Objectives on soft masks and the confusion matrix."""

from __future__ import annotations

import torch

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


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
        norm=2 if hp.get("squared_pred") else 1,
        background=hp.get("include_background", True),
    )
    return loss(case["scores"], case["targets"])


@recipe("imbalance_margin/monai_tversky")
def monai_tversky(case: Case) -> Computed:
    hp = case.hp
    return tl.Dice(alpha=hp["alpha"], beta=hp["beta"], smooth=2 * hp["smooth"])(case["scores"], case["targets"])


@recipe("imbalance_margin/monai_gdice_square", "imbalance_margin/monai_gdice_simple")
def monai_generalized(case: Case) -> Computed:
    hp = case.hp
    loss = tl.GeneralizedDice(
        weight=hp["w_type"],
        smooth=hp["smooth_nr"],
        smooth_denominator=hp["smooth_dr"],
        over="batch" if hp.get("batch") else "image",
        activation="sigmoid" if hp.get("sigmoid") else "softmax",
        background=hp.get("include_background", True),
    )
    return loss(case["scores"], case["targets"])


@recipe("imbalance_margin/monai_asym_focal", "imbalance_margin/monai_asym_focal_tversky")
def monai_unified(case: Case) -> Computed:
    tversky = case.entry["recipe"].endswith("tversky")
    loss = tl.UnifiedFocal(activation="none", weight=0.0 if tversky else 1.0, delta=case.hp["delta"], gamma=case.hp["gamma"])
    return loss(case["probs"], case["targets"])


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
    loss = tl.Dice(
        over="batch",
        alpha=hp["alpha"],
        beta=hp["beta"],
        smooth=2 * hp.get("smooth", 0.0),
        absent="zero",
        gamma=hp["gamma"],
        gamma_of="mean",
    )
    return loss(case["scores"], case["labels"])


@recipe("imbalance_margin/smp_dice_log_binary")
def smp_log(case: Case) -> Computed:
    smooth = 2 * case.hp.get("smooth", 0.0)
    loss = tl.Dice(over="all", activation="sigmoid", smooth=smooth, log=True, absent="zero")
    return loss(case["scores"], case["targets"])


@recipe("imbalance_margin/smp_mcc_binary")
def smp_mcc(case: Case) -> Computed:
    return tl.MatthewsCorrelation(smooth=case.hp["eps"])(case["scores"], case["targets"])


@recipe(
    "imbalance_margin/dml_soft",
    "imbalance_margin/dml_hard",
    "imbalance_margin/tversky_soft",
    *(f"imbalance_margin/jml_{n}" for n in ("soft", "hard", "hard_ignore", "soft_present", "norm2")),
    *(f"imbalance_margin/jml_{n}" for n in ("iouI", "iouC", "mixed_log_focal")),
)
def jaccard_metric(case: Case) -> Computed:
    hp = case.hp
    hard = "labels" in case
    kind = hp.get("active_classes_mode_hard" if hard else "active_classes_mode_soft", "PRESENT" if hard else "ALL")
    loss = tl.JaccardMetric(
        alpha=hp["alpha"],
        beta=hp["beta"],
        dataset=hp.get("mIoUD", 1.0),
        image=hp.get("mIoUI", 0.0),
        per_class=hp.get("mIoUC", 0.0),
        smooth=hp["smooth"],
        norm=hp.get("norm", 1),
        gamma=hp.get("gamma", 1.0),
        log=hp.get("log_loss", False),
        ignore_index=hp.get("ignore_index"),
        absent="drop" if kind == "PRESENT" else "keep",
        presence=0.0 if hard else hp.get("threshold", 0.01),
    )
    return loss(case["scores"], case["labels"] if hard else case["targets"])


@recipe("imbalance_margin/lovasz_softmax", "imbalance_margin/smp_lovasz_multiclass")
def lovasz_softmax(case: Case) -> Computed:
    hp = case.hp
    loss = tl.LovaszSoftmax(
        over="image" if hp.get("per_image") else "batch",
        absent="keep" if hp.get("classes") == "all" else "drop",
        ignore_index=hp.get("ignore_index", hp.get("ignore")),
    )
    return loss(case["scores"], case["labels"])


@recipe("imbalance_margin/kornia_lovasz_softmax")
def kornia_lovasz_softmax(case: Case) -> Computed:
    return tl.LovaszSoftmax(over="image", absent="keep")(case["scores"], case["labels"])


@recipe("imbalance_margin/lovasz_hinge", "imbalance_margin/smp_lovasz_binary", "imbalance_margin/kornia_lovasz_hinge")
def lovasz_hinge(case: Case) -> Computed:
    hp = case.hp
    loss = tl.LovaszHinge(
        over="image" if hp.get("per_image", "kornia" in case.entry["recipe"]) else "batch",
        ignore_index=hp.get("ignore_index", hp.get("ignore")),
    )
    return loss(case["scores"], case["labels"] if "labels" in case else case["targets"])


@recipe("imbalance_margin/dice_nlp_binary")
def dice_nlp_binary(case: Case) -> Computed:
    hp = case.hp
    loss = tl.Dice(
        over="all",
        activation="sigmoid",
        focus=hp["alpha"],
        smooth=hp["smooth"],
        norm=2 if hp["square_denominator"] else 1,
    )
    return loss(case["scores"], case["targets"])


@recipe("imbalance_margin/dice_nlp_multiclass")
def dice_nlp_multiclass(case: Case) -> Computed:
    hp = case.hp
    loss = tl.SelfAdjustingDice(alpha=hp["alpha"], smooth=hp["smooth"], squared=hp["square_denominator"], per_row="sum")
    return loss(case["scores"], case["targets"])


@recipe("imbalance_margin/self_adjusting_dice")
def self_adjusting(case: Case) -> Computed:
    rows = tl.SelfAdjustingDice(alpha=case.hp["alpha"], smooth=case.hp["smooth"], reduction="none")
    loss = tl.SelfAdjustingDice(alpha=case.hp["alpha"], smooth=case.hp["smooth"])
    return {"loss": loss(case["scores"], case["labels"]), "rows": rows(case["scores"], case["labels"])}


METRIC = {"acc": "accuracy", "balacc": "balanced_accuracy"}


@recipe(
    *(f"imbalance_margin/anyloss_official_{n}" for n in ("fbeta", "acc", "gmean", "balacc")),
    *(f"imbalance_margin/anyloss_{n}" for n in ("accuracy", "fbeta", "gmean", "balanced_accuracy", "mcc", "jaccard")),
)
def any_loss(case: Case) -> Computed:
    hp = case.hp
    loss = tl.AnyLoss(metric=METRIC.get(hp["metric"], hp["metric"]), slope=hp["L"], beta=hp.get("beta", 1.0))
    out = {"loss": loss(case["scores"], case["targets"])}
    if "out.confusion" in case.arrays:
        c = loss.confusion(case["scores"], case["targets"])
        out["confusion"] = torch.stack([c.tp, c.fp, c.fn, c.tn]).reshape(-1)
    return out
