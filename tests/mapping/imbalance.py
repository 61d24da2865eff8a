"""Long-tailed and multi-label objectives: reweighted, asymmetric and shifted ones, very many labels."""

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


def one_hot(case: Case, columns: int) -> Tensor:
    return functional.one_hot(case["labels"], columns)


@recipe("imbalance_margin/class_balanced_focal")
def class_balanced_focal(case: Case) -> Computed:
    focal = tl.SigmoidFocal(alpha=None, gamma=case.hp["gamma"], columns="sum")
    return tl.ClassBalanced(focal, class_counts=case["class_counts"].double(), beta=case.hp["beta"])(
        case["scores"], case["labels"]
    )


@recipe("imbalance_margin/class_balanced_softmax")
def class_balanced_softmax(case: Case) -> Computed:
    inner = tl.BinaryCrossEntropy(link="softmax", eps=1e-12)  # torch.nn.BCELoss
    return tl.ClassBalanced(inner, class_counts=case["class_counts"].double(), beta=case.hp["beta"])(
        case["scores"], case["labels"]
    )


@recipe("imbalance_margin/equalization")
def equalization(case: Case) -> Computed:
    columns = case["scores"].shape[1]
    hot = one_hot(case, columns + 1)[:, :columns]  # the label after the last column is background
    loss = tl.Equalization(class_counts=case["class_freq"], examples=1, threshold=case.hp["threshold"])
    return loss(case["scores"], tl.multi_label(hot))


@recipe("imbalance_margin/eqlv2")
def equalization_v2(case: Case) -> Computed:
    """Value and gradient of the second call on one batch."""
    hp = {name: float(case.hp[name]) for name in ("gamma", "mu", "alpha")}
    loss = tl.EqualizationV2(classes=case["scores"].shape[1], background=True, **hp).double()
    first = loss(case["scores"].detach(), case["labels"])
    second = loss(case["scores"], case["labels"])
    state = {"state_pos_grad": loss.positive, "state_neg_grad": loss.negative}
    return {"loss": second, "first_call": first, **state}


@recipe("imbalance_margin/seesaw")
def seesaw(case: Case) -> Computed:
    hp = {name: case.hp[name] for name in ("p", "q", "eps")}
    loss = tl.Seesaw(classes=case["scores"].shape[1], reduction="none", **hp).double().eval()  # counts as they are
    loss.counts.copy_(case["cum_samples"])
    rows = loss(case["scores"], case["labels"])
    return {"loss": rows.mean(), "rows": rows}


def balance(case: Case) -> Computed:
    """Both families of distribution-balanced losses; the NLP port keeps its names under focal.alpha and loss_weight."""
    hp: dict[str, Any] = case.hp
    focal, shift = hp["focal"], hp.get("logit_reg") or {}
    weights = {"rebalance": "rebalance", "CB": "class_balanced", None: "none"}[hp["reweight_func"]]
    nlp = "balancednlp" in case.entry["recipe"]
    scale = shift.get("neg_scale", 1.0)
    given: dict[str, Any] = {}
    if hp.get("map_param"):
        given = {"alpha": hp["map_param"]["alpha"], "beta": hp["map_param"]["beta"], "mu": hp["map_param"]["gamma"]}
    if hp.get("CB_loss"):
        given["cb_beta"] = hp["CB_loss"]["CB_beta"]
    alpha = focal.get("alpha", 0.5)
    loss = tl.DistributionBalanced(
        class_counts=case["class_counts"].double(),
        examples=hp["N"],
        weighting=weights,
        bias=shift.get("init_bias", 0.0) / (1.0 if nlp else scale),
        neg_scale=scale,
        divide_negatives=weights != "none",
        gamma=focal["gamma"] if focal["focal"] else None,
        balance=(alpha, 1 - alpha) if nlp else focal["balance_param"],
        **given,
    )
    return hp.get("loss_weight", 1.0) * loss(case["scores"], tl.multi_label(case["targets"]))


for name in ("db_focal", "db_nofocal", "db_cb", "balancednlp_rfl", "balancednlp_ntr_fl", "balancednlp_db"):
    recipe(f"imbalance_margin/{name}")(balance)
recipe("imbalance_margin/balancednlp_db_0fl", "imbalance_margin/balancednlp_cb_fl")(balance)


@recipe("imbalance_margin/mat", "imbalance_margin/mat_official")
def memorization_aware(case: Case) -> Computed:
    hp = {"temperature": case.hp["temperature"], "eps": case.hp["eps"]}
    targets = tl.classes(case["labels"]).given(heldout_scores=case["heldout_scores"])
    rows = tl.MemorizationAware(reduction="none", **hp)(case["scores"], targets)
    return {"loss": rows.mean(), "rows": rows}


def asymmetric(case: Case, **hp: object) -> dict[str, Any]:
    return {"reduction": "sum", "eps": case.hp.get("eps", 1e-8), "clip": case.hp["clip"] or 0.0, **hp}


@recipe("imbalance_margin/asl", "imbalance_margin/asl_opt")
def asl(case: Case) -> Computed:
    plain = case.entry["recipe"].endswith("asl")
    detach = bool(case.hp.get("disable_torch_grad_focal_loss", plain))
    exponents = {"gamma_neg": case.hp["gamma_neg"], "gamma_pos": case.hp["gamma_pos"]}
    loss = tl.AsymmetricMultiLabel(**asymmetric(case, detach_focus=detach, **exponents))
    return loss(case["scores"], tl.multi_label(case["targets"]))


@recipe("imbalance_margin/asl_single")
def asl_single(case: Case) -> Computed:
    hp = {"gamma_pos": case.hp["gamma_pos"], "gamma_neg": case.hp["gamma_neg"], "label_smoothing": case.hp["eps"]}
    return tl.AsymmetricSingleLabel(**hp)(case["scores"], case["labels"])


@recipe("imbalance_margin/hill")
def hill(case: Case) -> Computed:
    hp = {"lam": case.hp["lamb"], "margin": case.hp["margin"], "gamma": case.hp["gamma"]}
    return tl.Hill(reduction="sum", **hp)(case["scores"], tl.multi_label(case["targets"]))


@recipe("imbalance_margin/multi_grained_focal")
def multi_focal(case: Case) -> Computed:
    hp = {"gamma_neg": case.hp["gamma_neg"], "gamma_pos": case.hp["gamma_pos"]}
    power = float(Fraction(str(case.hp.get("exponent", "1/6"))))
    loss = tl.MultiFocalModifier(class_counts=case["class_counts"].double(), power=power, **asymmetric(case, **hp))
    return loss(case["scores"], tl.multi_label(case["targets"]))


@recipe("imbalance_margin/partial_asl_negative")
def partial_asl(case: Case) -> Computed:
    hp = {"gamma_neg": case.hp["gamma_neg"], "gamma_pos": case.hp["gamma_pos"], "gamma_unannotated": case.hp["gamma_unann"]}
    weight = case.hp.get("alpha_unann", 1.0)
    loss = tl.PartialAsymmetric(unannotated_weight=weight, **asymmetric(case, **hp))
    return loss(case["scores"], tl.graded(case["targets"]))


@recipe("imbalance_margin/csel", "imbalance_margin/csel_plain")
def class_specific(case: Case) -> Computed:
    """The released code's scores: distances signed by the targets and summed over tokens."""
    signed = (case["distance"] * case["targets"]).sum(-1)
    weights: dict[str, Any] = {}
    if not case.entry["recipe"].endswith("plain"):
        weights = {"class_counts": case["class_counts"].double(), "gamma": case.hp["gamma"]}
    loss = tl.ClassSpecificHingeEmbedding(margin=case.hp["margin"], **weights)
    return loss(signed, tl.multi_label(torch.ones_like(signed)))


@recipe("imbalance_margin/xmc_decoupled_softmax")
def decoupled(case: Case) -> Computed:
    loss = tl.DecoupledSoftmax(temperature=case.hp.get("temperature", 1.0))
    return loss(case["scores"], tl.multi_label(case["targets"]))


@recipe("imbalance_margin/xmc_topk")
def soft_top_k_loss(case: Case) -> Computed:
    temperature = case.hp.get("temperature", 1.0)
    loss = tl.SoftTopK(k=case.hp["K"], alpha=case.hp["alpha"], temperature=temperature, reduction="none")
    rows = loss(case["scores"], tl.multi_label(case["targets"]))
    return {"loss": rows.mean(), "rows": rows} if "out.rows" in case.arrays else rows.mean()


@recipe("imbalance_margin/soft_topk_operator")
def soft_top_k_operator(case: Case) -> Computed:
    q = tl.soft_top_k(case["scores"], case.hp["K"], alpha=case.hp["alpha"])
    return {"loss": (q * case["probe"]).sum(), "probs": q}


@recipe("imbalance_margin/triplet_ohnm")
def triplet_ohnm(case: Case) -> Computed:
    known = case["targets"] > 0
    own = torch.eye(len(known), dtype=torch.bool)
    loss = tl.TripletOHNM(
        margin=case.hp["margin"],
        k=case.hp["k"],
        weighted=bool(case.hp.get("apply_softmax", False)),
        tau=case.hp.get("tau", 0.1),
    )
    return loss(case["scores"], tl.multi_label(own, mask=own | ~known))


@recipe("imbalance_margin/hinge_contrastive")
def hinge_contrastive(case: Case) -> Computed:
    loss = tl.HingeContrastive(margin=case.hp["margin"], pos_weight=case.hp.get("pos_weight", 1.0))
    return loss(case["scores"], tl.multi_label(case["targets"]))


@recipe("imbalance_margin/prob_contrastive")
def prob_contrastive(case: Case) -> Computed:
    hp = {name: case.hp[name] for name in ("c", "d", "threshold", "pos_weight") if name in case.hp}
    return tl.ProbContrastive(**hp)(case["scores"], tl.multi_label(case["targets"]))


@recipe("imbalance_margin/sbcl", "imbalance_margin/sbcl_rank")
def subclass_balanced(case: Case) -> Computed:
    views = case["features"].shape[1]
    x = case["features"].transpose(0, 1).flatten(0, 1)
    y, subclass, example = (t.repeat(views) for t in (case["labels"], case["subclass"], torch.arange(len(case["labels"]))))
    rank = case.entry["recipe"].endswith("rank")
    hp = {name: case.hp[name] for name in ("temperature", "base_temperature", "gamma")}
    targets = tl.same_label(y).given(subclass=subclass, example=example)
    if rank:
        targets = targets.given(class_temperature=case["class_temperature"][y])
    return tl.SubclassBalancedContrastive(rank=rank, **hp)(tl.dot(x), targets)


@recipe("imbalance_margin/supcon_relu")
def supcon_relu(case: Case) -> Computed:
    loss = tl.ReLUSupCon if case.hp["relu"] else tl.SupCon
    return loss(temperature=case.hp["temperature"], over="valid")(tl.cosine(case["features"]), tl.same_label(case["labels"]))
