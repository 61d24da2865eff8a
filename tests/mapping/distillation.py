"""Distillation: divergences and margins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


def rows(case: Case, row: Tensor) -> Computed:
    name = next((n for n in ("per_row", "row") if f"out.{n}" in case.arrays), None)
    return row.mean() if name is None else {"loss": row.mean(), name: row}


def labelled(case: Case, teacher: str = "t", labels: str = "lab") -> tl.Targets:
    """The teacher's scores at the positions that have a label."""
    known = case[teacher]
    return tl.teacher(known, where=(case[labels] != -100)[..., None].expand(known.shape))


def divergence(kind: str, **settings: Any) -> tl.RowLoss:
    return {"ForwardKL": tl.ForwardKL, "ReverseKL": tl.ReverseKL, "GeneralizedJSD": tl.GeneralizedJSD}[kind](**settings)


@recipe(
    *(f"tokens_distillation/own_{kind}_T{t}" for kind in ("forwardkl", "reversekl") for t in (1, 4)),
)
def own_kl(case: Case) -> Computed:
    loss = divergence(case.hp["kind"], temperature=case.hp["T"], reduction="none")
    return rows(case, loss(case["student"], tl.teacher(case["teacher"])))


@recipe("tokens_distillation/own_jeffreyskl_T1", "tokens_distillation/own_jeffreyskl_T4")
def jeffreys(case: Case) -> Computed:
    weight, targets = case.hp["weight"], tl.teacher(case["teacher"])
    forward = tl.ForwardKL(temperature=case.hp["T"], reduction="none")(case["student"], targets)
    reverse = tl.ReverseKL(temperature=case.hp["T"], reduction="none")(case["student"], targets)
    return rows(case, weight * forward + (1 - weight) * reverse)


@recipe("tokens_distillation/own_skewforwardkl")
def skew_forward(case: Case) -> Computed:
    loss = tl.ForwardKL(temperature=case.hp["T"], skew=case.hp["alpha"], reduction="none")
    return rows(case, loss(case["student"], tl.teacher(case["teacher"])))


@recipe("tokens_distillation/own_skewreversekl")
def skew_reverse(case: Case) -> Computed:
    loss = tl.ReverseKL(temperature=case.hp["T"], skew=1 - case.hp["alpha"], reduction="none")
    return rows(case, loss(case["student"], tl.teacher(case["teacher"])))


@recipe("tokens_distillation/own_generalizedjsd")
def own_jsd(case: Case) -> Computed:
    loss = tl.GeneralizedJSD(beta=case.hp["alpha"], temperature=case.hp["T"], reduction="none")
    return rows(case, loss(case["student"], tl.teacher(case["teacher"])))


@recipe("tokens_distillation/own_topk_renormalized_forward")
def top_k(case: Case) -> Computed:
    row = tl.ForwardKL(reduction="none")(case["s"].gather(1, case["idx"]), tl.teacher(case["val"]))
    return rows(case, row)


@recipe("tokens_distillation/trl_gjsd_b_T")
def trl_jsd(case: Case) -> Computed:
    loss = tl.GeneralizedJSD(beta=case.hp["beta"], temperature=case.hp["temperature"])
    return loss(case["student"], labelled(case, "teacher", "labels"))


@recipe(
    "tokens_distillation/trl_chunked_b0.0_T1_capNone",
    "tokens_distillation/trl_chunked_b1.0_T2_capNone",
    "tokens_distillation/trl_chunked_b0.5_T1_cap3.0",
    "tokens_distillation/trl_chunked_b0.3_T1_capNone",
)
def trl_heads(case: Case) -> Computed:
    student: Any = tl.linear(case["hs"], case["ws"], case["bs"])
    known: Any = tl.linear(case["ht"], case["wt"])
    cap = case.hp["softcap"]
    if cap is not None:
        student, known = (cap * (x.tensor() / cap).tanh() for x in (student, known))
    loss = tl.GeneralizedJSD(beta=case.hp["beta"], temperature=case.hp["temperature"], reduction="none")
    return rows(case, loss(student, tl.teacher(known)))


@recipe("tokens_distillation/liger_jsd")
def liger_jsd(case: Case) -> Computed:
    hp, student = case.hp, tl.linear(case["hs"], case["ws"])
    keep = (case["y"] != -100)[:, None].expand(-1, len(case["wt"]))
    soft = tl.GeneralizedJSD(beta=hp["beta"], temperature=hp["temperature"])(
        student, tl.teacher(tl.linear(case["ht"], case["wt"]), where=keep)
    )
    hard = tl.CrossEntropy()(student, tl.classes(case["y"]))
    return hp["weight_hard_loss"] * hard + hp["weight_soft_loss"] * soft


@recipe("tokens_distillation/td_kd")
def hinton(case: Case) -> Computed:
    hp = case.hp
    soft = tl.ForwardKL(temperature=hp["temperature"], scale_t2=True)(case["s"], tl.teacher(case["t"]))
    return hp["alpha"] * tl.CrossEntropy()(case["s"], case["y"]) + (1 - hp["alpha"]) * soft


@recipe("tokens_distillation/distillm_forward_kl", "tokens_distillation/distillm_forward_kl_inf")
def distillm_forward(case: Case) -> Computed:
    return tl.ForwardKL(entropy=False)(case["s"], labelled(case))


@recipe("tokens_distillation/distillm_reverse_kl", "tokens_distillation/distillm_reverse_kl_inf")
def distillm_reverse(case: Case) -> Computed:
    return tl.ReverseKL()(case["s"], labelled(case))


@recipe("tokens_distillation/distillm_symmetric_kl")
def distillm_symmetric(case: Case) -> Computed:
    share, targets = case.hp["lam"], labelled(case)
    forward = tl.ForwardKL(entropy=False)(case["s"], targets)
    return (1 - share) * forward + share * tl.ReverseKL()(case["s"], targets)


@recipe("tokens_distillation/distillm_js_distance")
def distillm_js(case: Case) -> Computed:
    return tl.GeneralizedJSD(beta=1 - case.hp["lam"])(case["s"], labelled(case))


@recipe("tokens_distillation/distillm_skewed_forward_kl")
def distillm_skew_forward(case: Case) -> Computed:
    return tl.ForwardKL(skew=case.hp["lam"], entropy=False)(case["s"], labelled(case))


@recipe("tokens_distillation/distillm_skewed_reverse_kl")
def distillm_skew_reverse(case: Case) -> Computed:
    return tl.ReverseKL(skew=case.hp["lam"])(case["s"], labelled(case))


@recipe("tokens_distillation/dskd_forward_kl")
def dskd_forward(case: Case) -> Computed:
    return tl.ForwardKL(temperature=case.hp["temperature"], reduction="sum")(case["s"], labelled(case))


@recipe("tokens_distillation/dskd_reverse_kl")
def dskd_reverse(case: Case) -> Computed:
    return tl.ReverseKL(temperature=case.hp["temperature"], reduction="sum")(case["s"], labelled(case))


@recipe("tokens_distillation/abdiv_1_0")
def alpha_beta_forward(case: Case) -> Computed:
    return tl.ForwardKL()(case["s"], labelled(case))


@recipe("tokens_distillation/abdiv_0_1")
def alpha_beta_reverse(case: Case) -> Computed:
    return tl.ReverseKL()(case["s"], labelled(case))


# --- rankers ----------------------------------------------------------------------------------------------------


@recipe("ranking/listwise_kl_own")
def listwise(case: Case) -> Computed:
    targets = tl.teacher(case["teacher"], temperature=case.hp["teacher_temperature"])
    return rows(case, tl.ForwardKL(reduction="none")(case["scores"] / case.hp["student_temperature"], targets))


@recipe("ranking/listwise_kl_rev_own")
def listwise_reverse(case: Case) -> Computed:
    return rows(case, tl.ReverseKL(reduction="none")(case["scores"], tl.teacher(case["teacher"])))


@recipe("ranking/listwise_js_own")
def listwise_js(case: Case) -> Computed:
    return rows(case, tl.GeneralizedJSD(reduction="none")(case["scores"], tl.teacher(case["teacher"])))


@recipe("ranking/lir_kl")
def listwise_plain(case: Case) -> Computed:
    return tl.ForwardKL()(case["scores"], tl.teacher(case["teacher"]))


@recipe("ranking/rocketqav2_own")
def rocketqa(case: Case) -> Computed:
    own = tl.CrossEntropy(reduction="none")(case["teacher"], tl.classes(torch.zeros(len(case["teacher"]), dtype=torch.long)))
    soft = tl.ForwardKL(reduction="none")(case["scores"], tl.teacher(case["teacher"]))
    return rows(case, own + soft / case["scores"].shape[1])


@recipe("ranking/cadet_listwise_kl")
def cadet(case: Case) -> Computed:
    queries, hp = case["queries"], case.hp
    passages = case["passages"].reshape(len(queries), -1, queries.shape[1])
    scores = tl.per_row(queries, passages, form="dot") / hp["student_temperature"]
    return tl.ForwardKL()(scores, tl.teacher(case["teacher"], temperature=hp["teacher_temperature"]))


@recipe("ranking/margin_mse_own", "ranking/margin_mse_allpairs_own")
def margin_mse(case: Case) -> Computed:
    loss = tl.MarginMSE(pairs="all" if case.hp["pairs"] == "all" else "first", reduction="none")
    return rows(case, loss(case["scores"], tl.teacher(case["teacher"])))


@recipe("ranking/lir_marginmse")
def margin_mse_pooled(case: Case) -> Computed:
    loss = tl.MarginMSE(pairs="all", per_row="sum", over="pairs")
    return loss(case["scores"], tl.teacher(case["teacher"]))


@recipe("ranking/marginmse_official")
def margin_mse_triples(case: Case) -> Computed:
    known = torch.stack([case["teacher_pos"], case["teacher_neg"]], 1)
    return tl.MarginMSE()(torch.stack([case["pos"], case["neg"]], 1), tl.teacher(known))


def candidates(case: Case) -> tl.Scores:
    names = sorted(n for n in case.inputs if n.startswith("n") and n[1:].isdigit())
    return tl.per_row(case["a"], torch.stack([case["p"], *(case[n] for n in names)], 1), form="dot")


@recipe("contrastive/margin_mse")
def margin_mse_embeddings(case: Case) -> Computed:
    return tl.MarginMSE()(candidates(case), tl.teacher(case["teacher"]))


@recipe("contrastive/distill_kl")
def distill_kl(case: Case) -> Computed:
    loss = tl.ForwardKL(temperature=case.hp["temperature"], scale_t2=True)
    return loss(candidates(case), tl.teacher(case["teacher"]))
