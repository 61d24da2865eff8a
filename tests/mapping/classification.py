"""Target-probability losses, sparsemax, binary cross-entropy, ALDR, and what moves scores by class frequencies."""

import math

import torch
from torch import Tensor

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


def pooled(case: Case, loss: type[tl.RowLoss], **hp: object) -> Computed:
    """The mean, and the rows where the file has them."""
    targets = case["targets"] if "targets" in case else case["labels"]
    out = {"loss": loss(**hp)(case["scores"], targets)}
    if "out.rows" in case.arrays:
        out["rows"] = loss(**hp, reduction="none")(case["scores"], targets)
    return out


@recipe(
    "classification/focal", "classification/focal_hard", "classification/focal_detached", "imbalance_margin/focal_softmax"
)
def focal(case: Case) -> Computed:
    return pooled(case, tl.Focal, gamma=case.hp["gamma"], detach_weight=case.hp.get("detach_weight", False))


@recipe("classification/poly1_ce", "classification/poly1_optax", "classification/poly_n", "classification/poly1_soft_timm")
def poly(case: Case) -> Computed:
    return tl.PolyLoss(epsilons=case.hp["epsilons"], reduction="none")(case["scores"], case["targets"])


@recipe("classification/poly1_smoothing_timm")
def poly_smoothed(case: Case) -> Computed:
    e, columns = case.hp["label_smoothing"], case["scores"].shape[1]
    q = torch.nn.functional.one_hot(case["targets"], columns).to(case["scores"].dtype) * (1 - e) + e / columns
    return tl.PolyLoss(epsilons=case.hp["epsilons"], reduction="none")(case["scores"], tl.soft(q))


@recipe("classification/poly1_focal_softmax")
def poly_focal(case: Case) -> Computed:
    loss = tl.PolyLoss(epsilons=case.hp["epsilon"], gamma=case.hp["gamma"], reduction="none")
    return loss(case["scores"], case["targets"])


@recipe("classification/comp_sum_tau")
def comp_sum(case: Case) -> Computed:
    return tl.CompSum(tau=case.hp["tau"], reduction="none")(case["scores"], case["targets"])


@recipe("classification/gce")
def gce(case: Case) -> Computed:
    return pooled(case, tl.GeneralizedCrossEntropy, q=case.hp["q"])


@recipe("classification/mae")
def mae(case: Case) -> Computed:
    return pooled(case, tl.MeanAbsoluteError)


@recipe("classification/rce", "classification/sce", "classification/sce_balance")
def reverse(case: Case) -> Computed:
    """alpha CE + beta A (1 - p_y)."""
    level = case.hp.get("A", 9.210340371976182)
    hp = {"alpha": case.hp.get("alpha", 0.0), "beta": case.hp.get("beta", 1.0), "floor": math.exp(-level)}
    return pooled(case, tl.SymmetricCrossEntropy, **hp)


@recipe("classification/sparsemax", "classification/sparsemax_optax", "classification/sparsemax_soft")
def sparsemax(case: Case) -> Computed:
    return tl.Sparsemax(reduction="none")(case["scores"], case["targets"])


@recipe("classification/sparsemax_multilabel")
def sparsemax_multilabel(case: Case) -> Computed:
    return tl.Sparsemax(reduction="none")(case["scores"], tl.multi_label(case["targets"]))


@recipe("classification/sparsemax_map")
def sparsemax_map(case: Case) -> Computed:
    probs = tl.Sparsemax().predict(case["scores"])
    return {"loss": (probs * case["cotangent"]).sum(), "probs": probs}


@recipe("classification/bce_multilabel", "classification/bce_multilabel_sum", "classification/multilabel_soft_margin")
def bce_rows(case: Case) -> Computed:
    weight = case.inputs.get("pos_weight")
    loss = tl.BinaryCrossEntropy(columns=case.hp["over"], pos_weight=weight, reduction="none")
    return loss(case["scores"], case["targets"])


@recipe("classification/catlip_bce")
def catlip(case: Case) -> Computed:
    return tl.BinaryCrossEntropy(columns=case.hp["over"])(case["scores"], case["targets"])


@recipe(
    "imbalance_margin/bce_posweight_torch",
    "imbalance_margin/multilabel_softmargin_torch",
    "imbalance_margin/xmc_bce",
)
def bce_entries(case: Case) -> Computed:
    weight = case.inputs.get("pos_weight")
    return tl.BinaryCrossEntropy(pos_weight=weight)(case["scores"], case["targets"])


@recipe("imbalance_margin/weighted_bce_frequency", "imbalance_margin/weighted_bce_ranked")
def weighted_bce(case: Case) -> Computed:
    y = case["targets"]
    weight = tl.label_weights(y.sum(0), len(y), mode=case.hp["mode"])
    return {"loss": tl.BinaryCrossEntropy(class_weight=weight)(case["scores"], y), "class_weight": weight}


@recipe("imbalance_margin/vector_scaling_binary")
def vector_scaling_binary(case: Case) -> Computed:
    names = ("Delta_pos", "Delta_neg", "iota_pos", "iota_neg")
    ours = ("positive_factor", "negative_factor", "positive_shift", "negative_shift")
    hp = {our: case.hp[name] for our, name in zip(ours, names, strict=True)}
    rows = len(case["scores"])
    loss = tl.SigmoidVectorScaling(scale=case.hp["scale"], **hp)
    return loss(case["scores"].reshape(rows, -1), case["targets"].reshape(rows, -1))


@recipe("classification/aldr_kl", "classification/aldr_kl_softplus")
def aldr(case: Case) -> Computed:
    hp = case.hp
    loss = tl.ALDR(
        examples=hp["num_examples"],
        lambda0=hp["lam0"],
        margin=hp["margin"],
        alpha=hp["alpha"],
        softplus=hp["softplus"],
    ).double()
    values: list[Tensor] = []
    out: dict[str, Tensor] = {}
    for call, name in enumerate(("scores", "scores2"), 1):
        scores = case[name].detach().clone().requires_grad_()
        value = loss(scores, tl.classes(case["targets"]).given(ids=case["ids"]))
        (out[f"grad{call}"],) = torch.autograd.grad(value, scores)
        out[f"lambda{call}"] = loss.temperatures.clone()
        values.append(value.detach())
    return {"loss": torch.stack(values), **out}


@recipe("imbalance_margin/logit_adjusted", "imbalance_margin/balanced_softmax")
def logit_adjusted(case: Case) -> Computed:
    return pooled(case, tl.LogitAdjusted, class_counts=case["class_counts"], tau=case.hp.get("tau", 1.0))


@recipe("imbalance_margin/vector_scaling")
def vector_scaling(case: Case) -> Computed:
    hp = {"gamma": case.hp["gamma"], "tau": case.hp["tau"]}
    return pooled(case, tl.VectorScaling, class_counts=case["class_counts"], **hp)


@recipe("contrastive/bixse")
def bixse(case: Case) -> Computed:
    return tl.BinaryCrossEntropy(columns="sum")(case["scores"], tl.soft(case["targets"]))


@recipe("contrastive/contrastive_tension")
def contrastive_tension(case: Case) -> Computed:
    scores = tl.per_row(case["a"], case["p"][:, None], form="dot")
    return tl.BinaryCrossEntropy(reduction="sum")(scores, tl.soft(case["labels"][:, None]))


@recipe("ranking/recbox_bce")
def bce_first_summed(case: Case) -> Computed:
    return tl.BinaryCrossEntropy(columns="sum", reduction="sum")(case["scores"], tl.preferred())


@recipe("ranking/bce_rec_own")
def bce_first(case: Case) -> Computed:
    rows = tl.BinaryCrossEntropy(reduction="none")(case["scores"], tl.preferred())
    return {"loss": rows.mean(), "row": rows}


@recipe("ranking/setencoder_repeat_bce")
def bce_duplicates(case: Case) -> Computed:
    return tl.BinaryCrossEntropy(pos_weight=case.hp["pos_weight"])(case["scores"], case["targets"])


@recipe("ranking/rax_pointwise_sigmoid")
def bce_over_items(case: Case) -> Computed:
    targets = tl.graded(case["relevance"].clamp(0, 1), case["mask"])
    return tl.BinaryCrossEntropy(columns="sum", over="terms")(case["scores"], targets)


@recipe("ranking/poly1_own", "ranking/tfr_poly1")
def poly_on_lists(case: Case) -> Computed:
    grade = case["relevance"].to(case["scores"].dtype)
    targets = tl.graded(grade, case["mask"])
    rows = tl.PolyLoss(epsilons=case.hp["epsilon"], reduction="none")(case["scores"], targets)
    if "tfr" not in case.entry["recipe"]:
        return {"loss": rows.mean(), "row": rows}
    weight = (grade * case["mask"]).sum(-1)
    return {"loss": (rows * weight).sum() / (weight != 0).sum(), "row_weight": weight}


@recipe("imbalance_margin/ldam_bce")
def ldam_bce(case: Case) -> Computed:
    return tl.SigmoidLDAM(class_counts=case["class_counts"], margin=case.hp["C"])(case["scores"], case["targets"])


@recipe(
    "classification/sigmoid_focal",
    "classification/poly1_focal_sigmoid",
    "classification/poly1_focal_sigmoid_timm",
    "imbalance_margin/smp_focal_binary",
)
def sigmoid_focal(case: Case) -> Computed:
    names = ("gamma", "alpha", "epsilon", "alpha_on_poly")
    hp = {name: case.hp[name] for name in names if name in case.hp}
    rows = tl.SigmoidFocal(columns=case.hp.get("over", "mean"), reduction="none", **hp)
    if case.reduction == "none":
        return rows(case["scores"], case["targets"])
    return tl.SigmoidFocal(columns=case.hp.get("over", "mean"), **hp)(case["scores"], case["targets"])
