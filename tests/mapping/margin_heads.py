"""Margins from norms, chance, batch statistics; one-vs-all, several centres, in-batch negatives, regularizers."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import normalize

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


def both(
    make: Callable[..., tl.RowLoss], case: Case, scores: tl.Scores | torch.Tensor, targets: tl.Targets
) -> dict[str, torch.Tensor]:
    """The value and, where golden, the rows; every one by a loss of its own, since losses may hold state."""
    out = {"loss": make()(scores, targets)}
    if "out.rows" in case.arrays:
        out["rows"] = make(reduction="none")(scores, targets)
    return out


@recipe(
    "imbalance_margin/elastic_arcface",
    "imbalance_margin/elastic_arcface_plus",
    "imbalance_margin/elastic_cosface",
    "imbalance_margin/elastic_cosface_plus",
)
def elastic(case: Case) -> Computed:
    hp = case.hp
    form = {"arc": "angle", "cos": "cosine"}[hp["mode"]]

    def make(**more: Any) -> tl.RowLoss:
        return tl.ElasticFace(
            form=form, margin=hp["mean"], sigma=hp["std"], scale=hp["scale"], plus=hp["plus"], **more
        ).double()

    targets = tl.classes(case["labels"], ignore_index=-1).given(row_margin=case["margins"].reshape(-1))
    return both(make, case, tl.cosine(case["embeddings"], case["weight"].T), targets)


@recipe("imbalance_margin/curricularface")
def curricular(case: Case) -> Computed:
    made: list[tl.CurricularFace] = []

    def make(**more: Any) -> tl.RowLoss:
        hp = case.hp
        loss = tl.CurricularFace(margin=hp["margin"], scale=hp["scale"], momentum=hp["momentum"], **more).double()
        loss.t.fill_(hp["t_before"])
        made.append(loss)
        return loss

    out = both(make, case, tl.cosine(case["embeddings"], case["weight"].T), tl.classes(case["labels"]))
    return {**out, "state_t": made[0].t}


@recipe("imbalance_margin/magface")
def magface(case: Case) -> Computed:
    hp = case.hp
    loss = tl.MagFace(
        scale=hp["scale"],
        low_margin=hp["l_margin"],
        high_margin=hp["u_margin"],
        low_norm=hp["l_a"],
        high_norm=hp["u_a"],
        norm_weight=hp["lambda_g"],
    )
    scores = tl.cosine(case["embeddings"], case["weight"].T)
    parts = loss.terms(scores, case["labels"])
    return {"loss": loss(scores, case["labels"]), "ce": parts["entropy"], "reg": parts["norm"]}


@recipe("imbalance_margin/sphereface_r")
def sphereface_r(case: Case) -> Computed:
    weight = case["weight"]
    scores = tl.dot(normalize(case["embeddings"]), weight / weight.detach().norm(dim=1, keepdim=True))
    return both(
        lambda **more: tl.SphereFaceR(margin=case.hp["m"], scale=case.hp["s"], **more),
        case,
        scores,
        tl.classes(case["labels"]),
    )


@recipe("imbalance_margin/sphereface_pml", "metric/sphereface", "imbalance_margin/lsoftmax_pml", "metric/largemargin")
def multiplied(case: Case) -> Computed:
    loss = tl.SphereFace if "sphereface" in case.entry["recipe"] else tl.LargeMarginSoftmax
    hp = {"margin": case.hp["margin"], "scale": case.hp["scale"]}
    scores = tl.cosine(case["embeddings"], case["weight"].T)
    return both(lambda **more: loss(**hp, **more), case, scores, tl.classes(case["labels"]))


@recipe("imbalance_margin/subcenter_arcface_pml", "metric/subcenter_arcface")
def subcenters(case: Case) -> Computed:
    hp = case.hp
    margin = math.radians(hp["margin_degrees"] if "margin_degrees" in hp else hp["margin"])
    scores = tl.cosine(case["embeddings"], case["weight"].T)
    return both(
        lambda **more: tl.SubCenterArcFace(centers=hp["sub_centers"], margin=margin, scale=hp["scale"], **more),
        case,
        scores,
        tl.classes(case["labels"]),
    )


@recipe("imbalance_margin/madacos", "imbalance_margin/madacos_sep")
def madacos(case: Case) -> Computed:
    hp = case.hp
    made: list[tl.MadaCos] = []

    def make(**more: Any) -> tl.RowLoss:
        rows = {"default": "median_row"}.get(hp["B_reduction"], hp["B_reduction"])
        found = tl.MadaCos(alpha=hp["alpha"], odds=hp["rho"], min_scale=hp["min_scale"], rows=rows, **more).double()
        made.append(found)
        return found

    out = both(make, case, case["scores"], tl.classes(case["labels"]))
    return {**out, "scale": made[0].current_scale, "margin": made[0].current_margin}


@recipe("imbalance_margin/adacos")
def adacos(case: Case) -> Computed:
    made: list[tl.AdaCos] = []

    def make(**more: Any) -> tl.RowLoss:
        made.append(tl.AdaCos(**more).double())
        return made[-1]

    out = both(make, case, case["scores"], tl.classes(case["labels"]))
    return {**out, "scale": made[0].current_scale}


def with_bias(case: Case, loss: tl.SphereFace2 | tl.UniFace, scores: tl.Scores, sign: float, times: float) -> Computed:
    """The value and the gradient of the bias, whose golden sign is ``sign`` times ours."""
    assert loss.bias is not None
    with torch.no_grad():
        loss.bias.copy_(sign * case["bias"].reshape(loss.bias.shape))
    value = times * loss(scores, case["labels"])
    (bias,) = torch.autograd.grad(value, loss.bias, retain_graph=True)
    return {"loss": value, "grad.bias": sign * bias}


@recipe("imbalance_margin/uniface_uce", "imbalance_margin/uniface_bce")
def uniface(case: Case) -> Computed:
    hp = case.hp
    biases = "shared" if case["bias"].numel() == 1 and "uce" in case.entry["recipe"] else "per_class"
    loss = tl.UniFace(
        classes=case["weight"].shape[0],
        margin=hp["m"],
        scale=hp["s"],
        negative_weight=hp["l"],
        biases=biases,
        bounded=True,
    ).double()
    return with_bias(case, loss, tl.cosine(case["embeddings"], case["weight"]), -1.0, 1.0)


@recipe("imbalance_margin/sphereface2")
def sphereface2(case: Case) -> Computed:
    hp, weight = case.hp, case["weight"]
    loss = tl.SphereFace2(
        classes=weight.shape[0], positive_share=hp["alpha"], margin=hp["m"], power=hp["t"], scale=hp["r"]
    ).double()
    scores = tl.dot(normalize(case["embeddings"]), weight / weight.detach().norm(dim=1, keepdim=True))
    return with_bias(case, loss, scores, 1.0, hp["lw"])


@recipe("imbalance_margin/unpg_cosface", "imbalance_margin/unpg_arcface")
def unpg(case: Case) -> Computed:
    hp = case.hp
    inner = tl.CosFace if "cosface" in case.entry["recipe"] else tl.ArcFace
    loss = tl.UNPG(inner(margin=hp["margin"], scale=hp["scale"]), whisker=hp["whisker"])
    scores = tl.cosine(case["embeddings"], case["weight"])
    kept = loss.pairs(scores, tl.classes(case["labels"])).shape[0]
    return {"loss": loss(scores, case["labels"]), "num_kept": torch.tensor(kept)}


@recipe("imbalance_margin/nbc")
def nbc(case: Case) -> Computed:
    loss = tl.NegativeBlockContrast(tau=case.hp["tau"], classes=case.hp["num_classes"], eps=1e-10)
    return {"loss": loss(case["embeddings"], case["labels"])}


@recipe("imbalance_margin/opl", "imbalance_margin/opl_abs", "imbalance_margin/opl_single_class")
def opl(case: Case) -> Computed:
    absolute = "elementwise" if case.hp["abs"] else "none"
    return {"loss": tl.OrthogonalProjection(gamma=case.hp["gamma"], absolute=absolute)(case["features"], case["labels"])}


@recipe("metric/score_opl")
def opl_of_views(case: Case) -> Computed:
    views = case["features"].transpose(0, 1)
    labels = case["labels"].repeat(views.shape[0])
    hp = {"gamma": case.hp["gamma"], "temperature": case.hp["temperature"]}
    loss = tl.OrthogonalProjection(absolute="none", normalize=False, **hp)
    return {"loss": loss(views.flatten(0, 1), labels)}
