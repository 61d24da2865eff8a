"""Fenchel-Young losses and maps, difference losses, the spherical family, proper scores, losses of label sets."""

import torch

import torchlosses as tl
from tests.mapping import Case, Computed, recipe
from torchlosses.targets import Targets


def targets_of(case: Case) -> torch.Tensor | Targets:
    return case["targets"] if "targets" in case else case["labels"]


def reduced(case: Case, loss: type[tl.RowLoss], **hp: object) -> Computed:
    """Rows, or their mean (and the rows where the file has them), as the case says."""
    targets = targets_of(case)
    if case.reduction == "none":
        return loss(**hp, reduction="none")(case["scores"], targets)
    out = {"loss": loss(**hp, reduction="sum" if case.reduction == "sum" else "mean")(case["scores"], targets)}
    if "out.rows" in case.arrays:
        out["rows"] = loss(**hp, reduction="none")(case["scores"], targets)
    return out


@recipe("classification/entmax15", "classification/entmax_alpha")
def entmax_loss(case: Case) -> Computed:
    return reduced(case, tl.Entmax, alpha=case.hp["alpha"])


@recipe("classification/normmax_alpha")
def normmax_loss(case: Case) -> Computed:
    return reduced(case, tl.Normmax, alpha=case.hp["alpha"])


@recipe("classification/entmax15_map", "classification/entmax_learned_alpha_map")
def entmax_map(case: Case) -> Computed:
    alpha = case["alpha"] if "alpha" in case else case.hp["alpha"]
    probs = tl.entmax(case["scores"], alpha)
    out = {"loss": (probs * case["cotangent"]).sum()}
    if "out.probs" in case.arrays:
        out["probs"] = probs
    return out


@recipe("classification/budget_map")
def budget_map(case: Case) -> Computed:
    return tl.capped_simplex(case["scores"], case.hp["budget"])


@recipe("classification/perceptron")
def perceptron(case: Case) -> Computed:
    return reduced(case, tl.FenchelYoung, regularizer="none")


@recipe("classification/ldr_kl")
def ldr(case: Case) -> Computed:
    words = str(case.hp.get("normalize") or "none")
    kind = "softplus_mean" if "softplus" in words else "none" if words == "none" else "l1_mean"
    return reduced(case, tl.LDR, lam=float(case.hp["lam"]), margin=case.hp["margin"], normalize=kind)


@recipe("classification/crammer_singer", "classification/crammer_singer_sklearn", "classification/crammer_singer_ldr")
def crammer_singer(case: Case) -> Computed:
    return reduced(case, tl.CrammerSinger, margin=case.hp["margin"])


@recipe(
    "classification/weston_watkins",
    "classification/multi_margin_p1",
    "classification/multi_margin_p2",
    "imbalance_margin/multimargin_torch",
)
def weston_watkins(case: Case) -> Computed:
    hp = {"margin": case.hp.get("margin", 1.0), "power": case.hp.get("p", 1)}
    return reduced(case, tl.WestonWatkins, columns=case.hp.get("over", "mean"), **hp)


@recipe("classification/multilabel_margin")
def multilabel_margin(case: Case) -> Computed:
    return reduced(case, tl.MultiLabelMargin, margin=case.hp.get("margin", 1.0))


@recipe("classification/soft_margin")
def soft_margin(case: Case) -> Computed:
    """One binary score per example, targets +-1."""
    loss = tl.BinaryCrossEntropy(reduction="none" if case.reduction == "none" else "mean")
    return loss(case["scores"].reshape(-1, 1), tl.multi_label(case["targets"].reshape(-1, 1) > 0))


@recipe("classification/zloss_shiftscale")
def z_loss(case: Case) -> Computed:
    return reduced(case, tl.ZLoss, a=case.hp["a"], b=case.hp["b"])


@recipe("classification/spherical_softmax")
def spherical_softmax(case: Case) -> Computed:
    return reduced(case, tl.SphericalSoftmax, eps=case.hp["eps"])


@recipe("classification/taylor2_own", "classification/taylor_softmax_n")
def taylor_softmax(case: Case) -> Computed:
    return reduced(case, tl.TaylorSoftmax, order=case.hp.get("order", 2))


@recipe("classification/sparse_softmax_topk")
def sparse_softmax(case: Case) -> Computed:
    return reduced(case, tl.SparseSoftmax, k=case.hp["k"])


@recipe("classification/brier_ldr", "classification/brier_hard", "classification/brier_soft")
def brier(case: Case) -> Computed:
    return reduced(case, tl.Brier)


@recipe("classification/brier_sklearn")
def brier_sklearn(case: Case) -> Computed:
    value = tl.Brier()(case["scores"], case["targets"])
    return {"loss": value, "sklearn": value} if "out.sklearn" in case.arrays else value


@recipe("classification/spherical_score", "classification/spherical_score_soft")
def spherical_score(case: Case) -> Computed:
    return reduced(case, tl.SphericalScore)


@recipe("classification/rps")
def ranked_probability_score(case: Case) -> Computed:
    return reduced(case, tl.RankedProbabilityScore)


@recipe("classification/zlpr", "classification/zlpr_single")
def zlpr(case: Case) -> Computed:
    return reduced(case, tl.ZLPR)


@recipe("classification/two_way")
def two_way(case: Case) -> Computed:
    loss = tl.TwoWay(positive_temperature=case.hp["tp"], negative_temperature=case.hp["tn"])
    return loss(case["scores"], case["targets"])
