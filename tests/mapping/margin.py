"""Margin softmax."""

import math

import torch

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


def computed(case: Case, loss: type[tl.RowLoss], head: torch.Tensor, **hp: object) -> Computed:
    scores = tl.cosine(case["embeddings"], head)
    out = {"loss": loss(**hp)(scores, case["labels"])}
    if "out.rows" in case.arrays:
        out["rows"] = loss(**hp, reduction="none")(scores, case["labels"])
    return out


@recipe("imbalance_margin/arcface_noguard", "imbalance_margin/arcface_guard")
def arcface(case: Case) -> Computed:
    guard = "none" if "noguard" in case.entry["recipe"] else "linear"
    hp = {"margin": case.hp["margin"], "scale": case.hp["scale"]}
    return computed(case, tl.ArcFace, case["weight"].T, guard=guard, **hp)


@recipe("imbalance_margin/arcface_pml", "metric/arcface")
def arcface_degrees(case: Case) -> Computed:
    margin = math.radians(case.hp.get("margin_degrees", case.hp.get("margin")))
    return computed(case, tl.ArcFace, case["weight"].T, margin=margin, scale=case.hp["scale"])


@recipe("imbalance_margin/cosface", "imbalance_margin/cosface_pml", "metric/cosface")
def cosface(case: Case) -> Computed:
    return computed(case, tl.CosFace, case["weight"].T, margin=case.hp["margin"], scale=case.hp["scale"])


@recipe("imbalance_margin/uniface_softmax")
def cosface_rows(case: Case) -> Computed:
    return computed(case, tl.CosFace, case["weight"], margin=case.hp["m"], scale=case.hp["s"])


@recipe("imbalance_margin/arcface_detached", "imbalance_margin/cosface_detached")
def detached(case: Case) -> Computed:
    x, w = case["embeddings"], case["weight"]
    scores = tl.dot(torch.nn.functional.normalize(x), w / w.norm(dim=1, keepdim=True).detach())
    hp = {"margin": case.hp["m"], "scale": case.hp["s"]}
    if "cosface" in case.entry["recipe"]:
        return tl.CosFace(**hp)(scores, case["labels"])
    return tl.ArcFace(**hp, guard="clamp", detach_margin=True)(scores, case["labels"])


@recipe("imbalance_margin/combined_margin")
def combined(case: Case) -> Computed:
    hp = {"multiplier": case.hp["m1"], "angle": case.hp["m2"], "margin": case.hp["m3"], "scale": case.hp["scale"]}
    return computed(case, tl.CombinedMargin, case["weight"], **hp)


@recipe("imbalance_margin/partial_fc")
def class_sampling(case: Case) -> Computed:
    scores = tl.cosine(case["embeddings"], case["weight"])
    inner = tl.CosFace(margin=case.hp["margin"], scale=case.hp["scale"])
    return {
        "loss": tl.ClassSampling(inner)(scores, case["labels"], sampled=case["index"]),
        "rows": tl.ClassSampling(inner, reduction="none")(scores, case["labels"], sampled=case["index"]),
    }


@recipe("imbalance_margin/ldam", "imbalance_margin/ldam_drw")
def ldam(case: Case) -> Computed:
    loss = tl.LDAM(class_counts=case["class_counts"], max_margin=case.hp["max_m"], scale=case.hp["s"])
    return loss(case["scores"], tl.classes(case["labels"], case.inputs.get("class_weight")))


@recipe("imbalance_margin/adaface")
def adaface(case: Case) -> Computed:
    hp = case.hp
    loss = tl.AdaFace(
        margin=hp["m"],
        concentration=hp["h"],
        momentum=hp["t_alpha"],
        eps=hp["eps"],
        scale=hp["scale"],
        reduction="none",
    ).double()
    loss.norm_mean.fill_(hp["init_mean"])
    loss.norm_std.fill_(hp["init_std"])
    scores = tl.dot(case["embeddings"], torch.nn.functional.normalize(case["weight"], dim=0).T)
    rows = loss(scores, tl.classes(case["labels"]).given(query_norm=case["norms"].reshape(-1)))
    return {"loss": rows.mean(), "rows": rows, "state_mean": loss.norm_mean, "state_std": loss.norm_std}
