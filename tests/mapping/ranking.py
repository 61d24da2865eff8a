"""Objectives on lists."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import torchlosses as tl
from tests.mapping import Case, Computed, recipe

PHI = {"soft01": "sigmoid", "sq_hinge": "squared_hinge", "exp": "exponential"}
WEIGHT = {
    "inv_rank_sum": "inverse_rank_sum",
    "ndcg2_at_k": "ndcg2",
    "precision_at_k": "precision",
}


def lists(case: Case, labels: str = "relevance") -> tl.Targets:
    return tl.graded(case[labels], mask=case.inputs.get("mask"))


def first(scores: Tensor) -> tl.Targets:
    return tl.classes(torch.zeros(scores.shape[0], dtype=torch.long))


@recipe(
    *(
        f"ranking/{name}_own"
        for name in (
            "ranknet",
            "ranknet_labeldiff",
            "ranknet_labeldiffsq",
            "ranknet_invranksum",
            "lambdarank",
            "lambdarank_at4",
            "lambdaloss_ndcg2",
            "lambdaloss_ndcg2pp",
            "lambdaloss_ndcg2_at4",
            "lambda_precision_at4",
            "pair_hinge",
            "pair_sqhinge",
            "pair_soft01",
            "pair_exp",
            "pair_square",
        )
    )
)
def own_pairs(case: Case) -> Computed:
    hp = case.hp
    loss = tl.PairwiseLoss(
        phi=PHI.get(hp["phi"], hp["phi"]),
        weight=WEIGHT.get(hp["weight"], hp["weight"]),
        k=hp["k"],
        mu=hp["mu"],
        margin=hp.get("margin", 1.0),
        reduction="none",
    )
    row = loss(case["scores"], lists(case))
    return {"loss": row.mean(), "row": row}


@recipe(*(f"ranking/aucpairs_{name}" for name in ("hinge", "sq_hinge", "square", "logistic")))
def area_pairs(case: Case) -> Computed:
    phi = PHI.get(case.hp["phi"], case.hp["phi"])
    loss = tl.PairwiseLoss(phi=phi, margin=case.hp["margin"], over="pairs")
    return loss(case["scores"][None], case["targets"][None])


@recipe("ranking/allrank_ranknet", "ranking/lir_ranknet", "ranking/first_ranknet")
def ranknet_pooled(case: Case) -> Computed:
    return tl.RankNet(over="pairs")(case["scores"], lists(case))


@recipe("ranking/st_ranknet")
def ranknet_pooled_base2(case: Case) -> Computed:
    return tl.RankNet(over="pairs", log_base=str(case.hp["log_base"]))(case["scores"], lists(case))


@recipe("ranking/allrank_ranknet_diff")
def ranknet_difference(case: Case) -> Computed:
    return tl.RankNet(weight="label_diff", over="pairs")(case["scores"], lists(case))


@recipe("ranking/allrank_ranknet_diffsq")
def ranknet_squares(case: Case) -> Computed:
    return tl.RankNet(weight="label_diff_sq", over="pairs")(case["scores"], lists(case))


@recipe("ranking/first_weighted_ranknet")
def first_weighted(case: Case) -> Computed:
    return tl.RankNet(weight="inverse_rank_sum", over="pairs")(case["scores"], lists(case))


@recipe("ranking/first_lambda_ndcg2")
def first_lambda(case: Case) -> Computed:
    return tl.LambdaLoss(log_base="2", over="pairs")(case["scores"], lists(case))


@recipe("ranking/blender_ranknet")
def ranknet_ties(case: Case) -> Computed:
    return tl.RankNet(ties=case.hp["ties"], diagonal=True, over="pairs")(case["scores"], lists(case))


SCHEMES = {
    "none": "none",
    "ndcgLoss1": "ndcg1",
    "ndcgLoss2": "ndcg2",
    "ndcgLoss2PP": "ndcg2pp",
    "lambdaRank": "lambdarank",
    "rankNetWeightedByGTDiff": "label_diff",
    "rankNetWeightedByGTDiffPowed": "label_diff_sq",
}


def _allrank(scheme: str, end: str) -> None:
    @recipe(f"ranking/allrank_lambda_{scheme}_{end}")
    def compute(case: Case) -> Computed:
        hp = case.hp
        how: dict[str, Any] = {"reduction": "sum"} if end == "sum" else {"over": "pairs"}
        loss = tl.PairwiseLoss(
            weight=SCHEMES[scheme],
            k=hp["k"],
            k_mode="both",
            mu=hp["mu"],
            temperature=1 / hp["sigma"],
            log_base=str(hp["log_base"]),
            diagonal=True,
            **how,
        )
        return loss(case["scores"], lists(case))


for _scheme in SCHEMES:
    for _end in ("sum", "mean"):
        _allrank(_scheme, _end)
for _scheme in ("ndcgLoss1", "ndcgLoss2", "lambdaRank"):
    _allrank(_scheme, "k5_mean")


@recipe("ranking/allrank_lambda_natural")
def allrank_natural(case: Case) -> Computed:
    return tl.LambdaRank(temperature=1 / case.hp["sigma"], over="pairs")(case["scores"], lists(case))


def _sentence(name: str, weight: str) -> None:
    @recipe(f"ranking/st_lambda_{name}")
    def compute(case: Case) -> Computed:
        hp = case.hp
        loss = tl.PairwiseLoss(
            weight=weight,
            k=hp["k"],
            k_mode="either",
            temperature=1 / hp["sigma"],
            log_base=str(hp["log_base"]),
            diagonal=True,
            over="pairs",
        )
        return loss(case["scores"], lists(case))


for _name in ("none", "ndcg1", "ndcg2", "lambdarank", "ndcg2pp", "ndcg2pp_k4"):
    _sentence(_name, _name.removesuffix("_k4"))


def _rax(name: str, length: bool = False, **settings: Any) -> None:
    @recipe(f"ranking/rax_{name}")
    def compute(case: Case) -> Computed:
        chosen = dict(settings)
        if name == "pair_qr_sq":
            chosen["quantile"] = case.hp["tau"]
        elif name == "pair_qr":
            chosen["quantile"] = case.hp.get("tau", 0.5)
        if "k" in case.hp:
            chosen["k"] = case.hp["k"]
        if "normalize" in case.hp:
            chosen["normalize"] = case.hp["normalize"]
        targets = lists(case)
        if "weights" in case:
            targets = targets.given(item_weight=case["weights"])
        factor = case["scores"].shape[1] if length else 1
        value = tl.PairwiseLoss(**chosen, over="pairs")(case["scores"], targets) * factor
        if "out.row" not in case.arrays:
            return value
        row = tl.PairwiseLoss(**chosen, reduction="none")(case["scores"], targets) * factor
        return {"loss": value, "row": row}


_rax("pair_hinge", phi="hinge")
_rax("pair_logistic")
_rax("pair_soft01", phi="sigmoid")
_rax("pair_mse", phi="difference", diagonal=True)
_rax("pair_qr", phi="quantile")
_rax("pair_qr_sq", phi="squared_quantile")
_rax("lambda_labeldiff", weight="label_diff")
_rax("lambda_hinge_labeldiff", weight="label_diff", phi="hinge")
_rax("lambda_dcg", True, weight="lambdarank")
_rax("lambda_ndcg", True, weight="lambdarank")
_rax("lambda_hinge_ndcg", True, weight="lambdarank", phi="hinge")
_rax("lambda_ndcg_top5", True, weight="lambdarank")
_rax("lambda_dcg2", True, weight="ndcg2")
_rax("lambda_ndcg2", True, weight="ndcg2")
_rax("lambda_ndcg2_top5", True, weight="ndcg2")
_rax("weighted_pairwise_logistic")
_rax("weighted_pairwise_hinge", phi="hinge")
_rax("extreme_logistic")
_rax("extreme_hinge", phi="hinge")


def segments(case: Case) -> tuple[Tensor, tl.Targets]:
    """Concatenated lists as a padded matrix."""
    groups = case["segments"]
    rows = [(groups == g).nonzero().squeeze(1) for g in groups.unique()]
    width = max(len(r) for r in rows)
    index = torch.stack([torch.cat([r, r[:1].expand(width - len(r))]) for r in rows])
    mask = torch.stack([torch.arange(width) < len(r) for r in rows])
    return case["scores"][index], tl.graded(case["relevance"][index], mask=mask)


@recipe("ranking/rax_segments_pairwise_logistic")
def segments_logistic(case: Case) -> Computed:
    return tl.RankNet(over="pairs")(*segments(case))


@recipe("ranking/rax_segments_pairwise_hinge")
def segments_hinge(case: Case) -> Computed:
    return tl.PairwiseLoss(phi="hinge", over="pairs")(*segments(case))


@recipe("ranking/rax_segments_softmax")
def segments_softmax(case: Case) -> Computed:
    return tl.ListNet(target="sum")(*segments(case))


@recipe("ranking/rax_segments_listmle")
def segments_listmle(case: Case) -> Computed:
    return tl.ListMLE()(*segments(case))


def _tfr(name: str, length: bool = False, **settings: Any) -> None:
    @recipe(f"ranking/tfr_{name}")
    def compute(case: Case) -> Computed:
        chosen = dict(settings)
        if "k" in case.hp:
            chosen["k"] = case.hp["k"]
        factor = case["scores"].shape[1] if length else 1
        return tl.PairwiseLoss(**chosen, over="pairs")(case["scores"], lists(case)) * factor


_tfr("pair_hinge", phi="hinge")
_tfr("pair_mse", phi="difference")
_tfr("pair_soft01", phi="sigmoid")
_tfr("lambda_none")
_tfr("lambda_labeldiff", weight="label_diff")
_tfr("lambda_ndcg_abs", True, weight="lambdarank")
_tfr("lambda_ndcg_rel", True, weight="ndcg2")
_tfr("lambda_ndcg_rel_top4", True, weight="ndcg2", k_mode="either")
_tfr("lambda_precision4", weight="precision")


@recipe("ranking/tfr_softmax")
def tfr_softmax(case: Case) -> Computed:
    return tl.ListNet(target="sum", over="valid")(case["scores"], lists(case))


@recipe("ranking/bpr_own", "ranking/recbox_pairwise_logistic")
def bpr(case: Case) -> Computed:
    row = tl.BPR(reduction="none")(case["scores"], first(case["scores"]))
    return {"loss": row.mean(), "row": row} if "out.row" in case.arrays else row.mean()


@recipe("ranking/recbox_pairwise_margin")
def margin_first(case: Case) -> Computed:
    loss = tl.PairwiseLoss(phi="hinge", margin=case.hp["margin"], per_row="mean")
    return loss(case["scores"], first(case["scores"]))


@recipe("ranking/recbole_bpr")
def bpr_pairs(case: Case) -> Computed:
    return tl.BPR()(torch.stack([case["pos"], case["neg"]], 1), tl.preferred())


@recipe("ranking/irb_bpr")
def bpr_embeddings(case: Case) -> Computed:
    items = torch.cat([case["pos_item"][:, None], case["neg_items"]], 1)
    scores = tl.per_row(case["user_emb"][case["user"]], case["item_emb"][items], form="dot")
    return tl.BPR()(scores, tl.preferred())


def _global_ranks(case: Case) -> tuple[tl.Scores, Tensor, Tensor]:
    items = torch.cat([case["pos_item"][:, None], case["neg_items"]], 1)
    user = case["user_emb"][case["user"]]
    every = (user @ case["item_emb"].T).detach()
    rank = 1 + (every[:, None, :] > every.gather(1, items)[:, :, None]).sum(-1)
    return tl.per_row(user, case["item_emb"][items], form="dot"), rank[:, 0], rank[:, 1]


@recipe("ranking/irb_lambdarank")
def lambdarank_global(case: Case) -> Computed:
    scores, a, b = _global_ranks(case)
    weight = (1 / torch.log2(1.0 + a.double()) - 1 / torch.log2(1.0 + b.double())).abs()
    return (tl.BPR(reduction="none")(scores, tl.preferred()) * weight).mean()


@recipe("ranking/irb_lambdaloss_at5")
def lambdaloss_global(case: Case) -> Computed:
    scores, a, b = _global_ranks(case)
    a, b = a.double(), b.double()
    low = torch.maximum(a, b)
    weight = torch.where(low > case.hp["K"], 1 / (1 - 1 / low), 1.0) / torch.log2(1 + (a - b).abs())
    return (tl.BPR(reduction="none")(scores, tl.preferred()) * weight).mean()


@recipe("ranking/ipw_pairwise_own")
def inverse_propensity_pairs(case: Case) -> Computed:
    targets = lists(case, "clicks").given(item_weight=1 / case["propensity"])
    row = tl.RankNet(reduction="none")(case["scores"], targets)
    return {"loss": row.mean(), "row": row}


@recipe("ranking/ipw_softmax_own")
def inverse_propensity_softmax(case: Case) -> Computed:
    row = tl.ListNet(target="sum", reduction="none")(case["scores"], tl.graded(case["clicks"] / case["propensity"]))
    return {"loss": row.mean(), "row": row}


@recipe("ranking/setencoder_daranknet")
def novelty_aware(case: Case) -> Computed:
    scores, groups = case["scores"].detach(), case["subtopic"]
    n = scores.shape[1]
    base = torch.arange(n, 0, -1, dtype=scores.dtype).expand_as(scores)
    same = groups[:, :, None] == groups[:, None, :]
    best = scores == torch.where(same, scores[:, None, :], -torch.inf).amax(-1)
    target = torch.where(same, base[:, None, :], 0.0).amax(-1) * best
    return tl.RankNet(over="pairs")(case["scores"], target)


@recipe("ranking/pairranker_instructgpt")
def pair_ranker(case: Case) -> Computed:
    scores = torch.stack([case["left"], case["right"]], -1)
    quality = torch.stack([case["left_quality"], case["right_quality"]], -1)
    tie = (quality[..., 0] == quality[..., 1]).to(scores.dtype)  # sign 0: a constant log 2
    return (tl.RankNet(reduction="none")(scores, tl.graded(quality)) + tie * math.log(2)).mean()


@recipe("ranking/welfare_log_own", "ranking/welfare_hinge_own", "ranking/welfare_log_teacher_own")
def welfare(case: Case) -> Computed:
    hp, bids = case.hp, case["bids"]
    loss = tl.PairwiseLoss(
        phi=hp["phi"],
        weight="label_diff",
        margin=hp["margin"],
        temperature=1 / hp["sigma"],
        reduction="none",
    )
    row = loss(bids * case["ctr"], tl.graded(bids * case["labels"]))
    return {"loss": row.mean(), "row": row}


@recipe("ranking/bt_nll")
def bradley_terry(case: Case) -> Computed:
    return tl.RankNet(reduction="sum")(case["theta"][case["pairs"]], tl.preferred())


# --- likelihoods of lists ---------------------------------------------------------------------------------------


def _rows(case: Case, row: Tensor) -> Computed:
    return {"loss": row.mean(), "row": row} if "out.row" in case.arrays else row.mean()


@recipe(
    "ranking/listnet_top1_own",
    "ranking/listnet_top2_own",
    "ranking/blender_listnet1",
    "ranking/blender_listnet2",
)
def listnet_teacher(case: Case) -> Computed:
    loss = tl.ListNet(k=case.hp.get("k", 1), reduction="none")
    targets = tl.teacher(case["teacher"]) if "teacher" in case else lists(case)
    return _rows(case, loss(case["scores"], targets))


@recipe("ranking/allrank_listnet", "ranking/st_listnet", "ranking/first_listnet")
def listnet(case: Case) -> Computed:
    return tl.ListNet()(case["scores"], lists(case))


@recipe("ranking/softmax_sum_own", "ranking/softmax_norm_own")
def list_softmax(case: Case) -> Computed:
    target = "normalized" if case.hp["normalize"] else "sum"
    return _rows(case, tl.ListNet(target=target, reduction="none")(case["scores"], lists(case)))


@recipe("ranking/allrank_listnet_bin")
def list_softmax_mean(case: Case) -> Computed:
    return tl.ListNet(target="normalized")(case["scores"], lists(case))


@recipe("ranking/rax_softmax", "ranking/rax_extreme_softmax", "ranking/rax_weighted_softmax")
def rax_softmax(case: Case) -> Computed:
    grade = case["relevance"] * case["weights"] if "weights" in case else case["relevance"]
    targets = tl.graded(grade, mask=case["mask"])
    value = tl.ListNet(target="sum")(case["scores"], targets)
    if "out.row" not in case.arrays:
        return value
    return {"loss": value, "row": tl.ListNet(target="sum", reduction="none")(case["scores"], targets)}


LENGTH = {
    "listmle": {},
    "listmle_top3": {},
    "listmle_mean": {"normalize": "length"},
    "listmle_log": {"position_weight": "discount"},
    "plistmle": {"position_weight": "exponential"},
    "plistmle_norm": {"position_weight": "exponential", "normalize": "weights"},
}


def _listmle(name: str, settings: dict[str, Any]) -> None:
    @recipe(f"ranking/{name}_own")
    def compute(case: Case) -> Computed:
        loss = tl.ListMLE(**settings, k=case.hp.get("k"), reduction="none")
        return _rows(case, loss(case["scores"], lists(case)))


for _name, _settings in LENGTH.items():
    _listmle(_name, _settings)


@recipe(
    "ranking/allrank_listmle",
    "ranking/st_listmle",
    "ranking/blender_listmle",
    "ranking/rax_listmle",
    "ranking/rax_listmle_tied",
    "ranking/rax_extreme_listmle",
)
def listmle(case: Case) -> Computed:
    value = tl.ListMLE()(case["scores"], lists(case))
    if "out.row" not in case.arrays:
        return value
    return {"loss": value, "row": tl.ListMLE(reduction="none")(case["scores"], lists(case))}


@recipe("ranking/tfr_listmle")
def tfr_listmle(case: Case) -> Computed:
    value = tl.ListMLE()(case["scores"], lists(case))
    # the package's value holds the constant log((L-n)!) of the padding
    return {
        "loss_without_padding": value,
        "loss": value + (case.golden("out.loss") - case.golden("out.loss_without_padding")),
    }


@recipe("ranking/st_plistmle")
def plistmle_normalized(case: Case) -> Computed:
    return tl.PListMLE(normalize="weights")(case["scores"], lists(case))


@recipe("ranking/blender_plistmle")
def plistmle_doubled(case: Case) -> Computed:
    return tl.ListMLE(position_weight="doubled")(case["scores"], lists(case))
