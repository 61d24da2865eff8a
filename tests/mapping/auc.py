"""AUC objectives: pairs, the min-max form, and those that remember every example."""

from __future__ import annotations

import torch
from torch import Tensor

import torchlosses as tl
from tests.mapping import Case, Computed, recipe

PHI = {"squared": "square"}


def surrogate(case: Case) -> dict[str, object]:
    """The settings of a surrogate from a case: ``hparam`` is its margin, (margin, slope), or the logistic's factor."""
    name = case.hp.get("surrogate", "squared_hinge")
    value = case.hp.get("hparam", case.hp.get("margin", 1.0))
    settings: dict[str, object] = {"phi": PHI.get(name, name)}
    if isinstance(value, (list, tuple)):
        settings["margin"], settings["slope"] = value
    elif name == "logistic":
        settings["temperature"] = 1.0 / value
    else:
        settings["margin"] = value
    return settings


@recipe(*(f"imbalance_margin/pairwise_auc_{n}" for n in ("squared_hinge", "squared", "hinge", "logistic", "barrier_hinge")))
def pairwise(case: Case) -> Computed:
    return tl.PairwiseAUC(**surrogate(case))(case["scores"], case["targets"])


@recipe(
    *(
        f"imbalance_margin/macro_auc_{kind}_{base}"
        for kind in ("pairwise", "univariate", "reweighted")
        for base in ("logistic", "hinge", "squared_hinge")
    )
)
def macro(case: Case) -> Computed:
    settings = {"kind": case.hp["kind"], "phi": PHI.get(case.hp["base"], case.hp["base"])}
    if "margin" in case.hp:
        settings["margin"] = case.hp["margin"]
    loss = tl.MacroAUC(**settings)(case["scores"], case["targets"])
    return {"loss": loss, "per_label": tl.MacroAUC(reduction="none", **settings)(case["scores"], case["targets"])}


@recipe(
    *(f"imbalance_margin/aucm_{n}" for n in ("v1_ref", "v2_ref", "v1_libauc", "v2_libauc_quirk", "v2_monai")),
    "imbalance_margin/multilabel_aucm_v2",
)
def margin(case: Case) -> Computed:
    hp = case.hp
    labels = case["scores"].shape[1] if case["scores"].dim() == 2 else 1
    prior = hp.get("imratio")
    if "v1_libauc" in case.entry["recipe"]:  # there the batch's share and its complement are float32
        prior = case["targets"].float().mean()
    loss = tl.AUCMargin(version=hp["version"], margin=hp["margin"], prior=prior, ascent=False, classes=labels)
    names = ("a", "b", "alpha")
    for name in names:
        start = case[name].detach() if name in case else torch.tensor(hp[name], dtype=torch.float64)
        getattr(loss, name).data = start.expand(labels).clone()
    value = loss(case["scores"], case["targets"])
    if "grad.a" not in case.arrays:
        return value
    found = torch.autograd.grad(value, [getattr(loss, n) for n in names], retain_graph=True)
    return {"loss": value, **{f"grad.{n}": g.reshape(case[n].shape) for n, g in zip(names, found, strict=True)}}


def twice(case: Case, loss: tl.RowLoss) -> dict[str, Tensor]:
    """First and second call on the same batch."""
    n = case["scores"].shape[0]
    scores, hot = case["scores"].reshape(n, -1), case["targets"].reshape(n, -1)
    targets = tl.multi_label(hot).given(ids=torch.arange(n))
    first = loss(scores, targets).detach()
    return {"first_call": first, "loss": loss(scores, targets)}


def pointwise(case: Case) -> dict[str, object]:
    return {k: v for k, v in surrogate(case).items() if k != "temperature"}


@recipe("imbalance_margin/pauc_cvar")
def partial_cvar(case: Case) -> Computed:
    hp, n = case.hp, case["scores"].shape[0]
    loss = tl.PartialAUC(examples=n, kind="cvar", beta=hp["beta"], eta=hp["eta"], **pointwise(case))
    out = twice(case, loss.double())
    # the reference moves u by float32 steps, so the state agrees to 1e-7 only
    torch.testing.assert_close(loss.memory[0], case.golden("out.state_u_pos"), rtol=1e-6, atol=1e-7)
    return out


@recipe("imbalance_margin/pauc_kl")
def partial_kl(case: Case) -> Computed:
    hp, n = case.hp, case["scores"].shape[0]
    loss = tl.PartialAUC(examples=n, kind="kl", rate=hp["gamma"], negative_temperature=hp["Lambda"], **pointwise(case))
    out = twice(case, loss.double())
    return {**out, "state_u_pos": loss.memory[0].exp()}


@recipe("imbalance_margin/tpauc_kl")
def two_way_kl(case: Case) -> Computed:
    hp, n = case.hp, case["scores"].shape[0]
    loss = tl.PartialAUC(
        examples=n,
        kind="two_way_kl",
        rate=hp["gammas"][0],
        rate_total=hp["gammas"][1],
        negative_temperature=hp["Lambda"],
        positive_temperature=hp["tau"],
        **pointwise(case),
    )
    out = twice(case, loss.double())
    return {**out, "state_u_pos": loss.memory[0].exp(), "state_w": loss.total.exp()}


@recipe("imbalance_margin/ap_soap")
def soap(case: Case) -> Computed:
    loss = tl.AveragePrecision(examples=case["scores"].shape[0], rate=case.hp["gamma"], **pointwise(case))
    out = twice(case, loss.double())
    return {**out, "state_u_pos": loss.positives[0], "state_u_all": loss.everyone[0]}
