"""Cross-entropy, its penalty, and whatever is cross-entropy of some recipe of scores."""

import math

import torch
from torch import Tensor

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


def smoothing(case: Case) -> float:
    return float(case.hp.get("label_smoothing", 0.0))


@recipe(
    "classification/cross_entropy",
    "classification/label_smoothing",
    "classification/cross_entropy_soft",
    "classification/fenchel_young_logistic",
)
def cross_entropy(case: Case) -> Computed:
    return tl.CrossEntropy(label_smoothing=smoothing(case), reduction="none")(case["scores"], case["targets"])


@recipe("classification/log_score_sklearn")
def log_score(case: Case) -> Computed:
    return tl.CrossEntropy()(case["scores"], case["targets"])


@recipe("classification/cross_entropy_weight_ignore_mean", "classification/label_smoothing_weight_ignore_mean")
def weighted(case: Case) -> Computed:
    targets = tl.classes(case["targets"], case["weight"], ignore_index=case.hp.get("ignore_index", -100))
    return tl.CrossEntropy(label_smoothing=smoothing(case))(case["scores"], targets)


@recipe("classification/mean_ce_logmeanexp")
def minus_log_columns(case: Case) -> Computed:
    rows = tl.CrossEntropy(reduction="none")(case["scores"], case["targets"]) - math.log(case["scores"].shape[1])
    if case.reduction == "none":
        return rows
    return {"loss": rows.mean(), "rows": rows} if "out.rows" in case.arrays else rows.mean()


@recipe("classification/logit_norm")
def logit_norm(case: Case) -> Computed:
    loss = tl.LogitNorm(temperature=case.hp["tau"], eps=case.hp["eps"], reduction="none")
    return loss(case["scores"], case["targets"])


@recipe("classification/lse_regularizer")
def penalty(case: Case) -> Computed:
    return tl.LogPartitionPenalty(weight=case.hp["weight"])(case["scores"], case["targets"])


@recipe("classification/lse_regularizer_ignored")
def penalty_over_all_rows(case: Case) -> Computed:
    targets = tl.classes(case["targets"], ignore_index=case.hp["ignore_index"])
    loss = tl.LogPartitionPenalty(weight=case.hp["weight"], reduction="sum")
    return loss(case["scores"], targets) / case["scores"].shape[0]


@recipe("classification/normalized_softmax")
def normalized(case: Case) -> Computed:
    scores = tl.cosine(case["features"], case["weight"]) * (case.hp.get("scale") or 1 / case.hp["temperature"])
    return tl.CrossEntropy()(scores, case["targets"])


@recipe("imbalance_margin/normsoftmax_pml", "metric/normsoftmax")
def normalized_pml(case: Case) -> Computed:
    rows = tl.CrossEntropy(reduction="none")(
        tl.cosine(case["embeddings"], case["weight"].T) / case.hp["temperature"], case["labels"]
    )
    return {"loss": rows.mean(), "rows": rows} if "out.rows" in case.arrays else rows.mean()


@recipe("imbalance_margin/ce_torch", "imbalance_margin/ce_smooth_torch", "imbalance_margin/ce_weighted_torch")
def torch_forms(case: Case) -> Computed:
    targets = tl.classes(case["labels"], case.inputs.get("class_weight"))
    out = {"loss": tl.CrossEntropy(label_smoothing=smoothing(case))(case["scores"], targets)}
    if "out.rows" in case.arrays:
        out["rows"] = tl.CrossEntropy(label_smoothing=smoothing(case), reduction="none")(case["scores"], targets)
    return out


@recipe("imbalance_margin/linear_ce", "imbalance_margin/cce")
def linear_head(case: Case) -> Computed:
    scores = tl.linear(case["features"], case["weight"])
    if case.hp.get("softcap"):
        scores = scores.softcap(case.hp["softcap"])
    targets = tl.classes(case["labels"], ignore_index=case.hp.get("ignore_index", -100))
    rows = tl.CrossEntropy(label_smoothing=smoothing(case), reduction="none")(scores, targets)
    loss = tl.CrossEntropy(label_smoothing=smoothing(case))(scores, targets)
    if case.hp.get("z_loss"):
        rows = rows + tl.LogPartitionPenalty(weight=case.hp["z_loss"], reduction="none")(scores, targets)
        loss = loss + tl.LogPartitionPenalty(weight=case.hp["z_loss"])(scores, targets)
    return {"loss": loss, "rows": rows} if "out.rows" in case.arrays else loss


@recipe("imbalance_margin/xmc_softmax")
def summed_over_positives(case: Case) -> Computed:
    return tl.CrossEntropy()(case["scores"], tl.soft(case["targets"]))


@recipe("imbalance_margin/sampled_softmax")
def sampled_softmax(case: Case) -> Computed:
    y, sampled = case["labels"], case["sampled"]
    expected = torch.zeros_like(case["bias"]).detach()
    expected[sampled], expected[y] = case["log_q_sampled"].detach(), case["log_q_true"].detach()
    scores = tl.linear(case["features"], case["weight"], case["bias"])
    hits = bool(case.hp.get("remove_accidental_hits"))
    given = {"sampled": sampled, "log_expected": expected}
    return {
        "loss": tl.SampledSoftmax(remove_hits=hits)(scores, y, **given),
        "rows": tl.SampledSoftmax(remove_hits=hits, reduction="none")(scores, y, **given),
    }


@recipe("imbalance_margin/online_logsumexp")
def streaming_logsumexp(case: Case) -> Computed:
    """lse = cross-entropy with the largest score as target, plus that score."""
    top = case["scores"].max(-1)
    rows = tl.CrossEntropy(reduction="none")(case["scores"], top.indices) + top.values
    return {"loss": rows.sum(), "rows": rows}


@recipe("classification/kl_soft", "classification/convex_kl")
def divergence_from_targets(case: Case) -> Computed:
    q = case["targets"]
    return tl.CrossEntropy(reduction="none")(case["scores"], tl.soft(q)) + torch.xlogy(q, q).sum(-1)


@recipe("procedures/unigram_normalized")
def unigram_normalized(case: Case) -> Computed:
    rows = tl.CrossEntropy(reduction="none")(case["scores"], case["y"]) + case["unigram"][case["y"]].log()
    return {"loss": rows.mean(), "rows": rows} if "out.loss" in case.arrays else rows_only(case, rows)


def rows_only(case: Case, rows: Tensor) -> Computed:
    (gradient,) = torch.autograd.grad(rows.mean(), case["scores"])
    return {"rows": rows.detach(), "grad.scores": gradient}


@recipe("contrastive/mrl_ce", "contrastive/mrl_e")
def matryoshka(case: Case) -> Computed:
    parts = []
    for i, width in enumerate(case.hp["nesting"]):
        tied = "w" in case
        weight, bias = (case["w"], case["b"]) if tied else (case[f"w{i}"], case[f"b{i}"])
        scores = tl.linear(case["x"][:, :width], weight[:, :width], bias)
        parts.append(tl.CrossEntropy()(scores, case["y"]))
    importance = case.hp.get("relative_importance") or [1.0] * len(parts)
    return sum(w * part for w, part in zip(importance, parts, strict=True))


@recipe("ranking/lir_infonce")
def best_of_list(case: Case) -> Computed:
    return tl.CrossEntropy()(case["scores"], case["relevance"].argmax(-1))


@recipe("ranking/recbox_softmax")
def first_of_list(case: Case) -> Computed:
    return tl.CrossEntropy()(case["scores"], tl.preferred())


@recipe("ranking/fullrank_plain_lm")
def next_token(case: Case) -> Computed:
    return tl.CrossEntropy()(case["logits"][:, :-1], tl.classes(case["labels"][:, 1:]))


@recipe("metric/poincare_embedding")
def poincare_softmax(case: Case) -> Computed:
    rows = [
        tl.CrossEntropy()(tl.poincare(x, y), torch.zeros(len(x), dtype=torch.long))
        for x, y in zip(case["subject"], case["objects"], strict=True)
    ]
    return torch.stack(rows).mean()


@recipe("tokens_distillation/fkd_marginal_smoothing_k5", "tokens_distillation/fkd_marginal_renorm")
def top_targets(case: Case) -> Computed:
    s, lab = case["s"], case["lab"].detach()
    index, value = lab[:, 0].long(), lab[:, 1]
    if "smoothing" in case.entry["recipe"]:
        rest = (1 - value.sum(-1, keepdim=True)) / (s.shape[1] - index.shape[1])
        q = rest.expand(s.shape).clone().to(s.dtype)
    else:
        value = value / value.sum(-1, keepdim=True)
        q = torch.zeros_like(s)
    q = q.detach().scatter(1, index, value)
    return {"loss": tl.CrossEntropy()(s, tl.soft(q)), "target": q}
