"""Objectives on preferences."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


def rewards(case: Case, beta: float | Tensor | None = None, reference: float = 1.0, length: bool = False) -> tl.Scores:
    """Implicit rewards (B, 2) of chosen and rejected responses."""
    policy = torch.stack([case["chosen_logps"], case["rejected_logps"]], 1)
    known = torch.stack([case["ref_chosen_logps"], case["ref_rejected_logps"]], 1) * reference
    if length:
        size = torch.stack([case["chosen_len"], case["rejected_len"]], 1)
        policy, known = policy / size, known / size
    return tl.implicit_reward(policy, known, beta=case.hp["beta"] if beta is None else beta)


def rows(case: Case, row: Tensor, extra: Tensor | float = 0.0) -> Computed:
    """The mean of the rows plus an extra term."""
    found = {"loss": row.mean() + extra}
    if "out.per_row" in case.arrays:
        found["per_row"] = row
    return found


@recipe("preference/dpo_sigmoid", "preference/cdpo")
def dpo(case: Case) -> Computed:
    loss = tl.DPO(label_smoothing=case.hp.get("label_smoothing", 0.0), reduction="none")
    return rows(case, loss(rewards(case), tl.preferred()))


@recipe("preference/dpo_sigmoid_norm")
def dpo_average(case: Case) -> Computed:
    return rows(case, tl.DPO(reduction="none")(rewards(case, length=True), tl.preferred()))


@recipe("preference/slic_hinge", "preference/slic_hf")
def slic(case: Case) -> Computed:
    hp = case.hp
    free = "delta" in hp
    delta = hp.get("delta", hp.get("margin", 1.0))
    scores = rewards(case, reference=0.0 if free else 1.0)
    # max(0, delta - z) is the hinge at z shifted by delta - 1
    return rows(case, tl.SLiC(margin=delta - 1.0, reduction="none")(scores, tl.preferred()))


@recipe("preference/ipo", "preference/ipo_summed")
def ipo(case: Case) -> Computed:
    scores = rewards(case, beta=1.0, length=case.hp["length_normalize"])
    return rows(case, tl.IPO(tau=case.hp["tau"], reduction="none")(scores, tl.preferred()))


@recipe("preference/ipo_token")
def ipo_token(case: Case) -> Computed:
    mask = case["mask"].to(case["token_logps"].dtype)
    count = mask.sum(1).clamp(min=1) if case.hp["length_normalize"] else 1.0
    policy = (case["token_logps"] * mask).sum(1) / count
    known = (case["ref_token_logps"] * mask).sum(1) / count
    scores = tl.implicit_reward(policy.reshape(2, -1).T, known.reshape(2, -1).T, beta=1.0)
    return rows(case, tl.IPO(tau=case.hp["tau"], reduction="none")(scores, tl.preferred()))


@recipe(
    *(f"preference/gpo_{link}" for link in ("logistic", "hinge", "squared", "exponential", "truncated_quadratic", "savage"))
)
def gpo(case: Case) -> Computed:
    return rows(case, tl.GPO(link=case.hp["link"], reduction="none")(rewards(case), tl.preferred()))


@recipe("preference/fdpo_js")
def dpo_jensen_shannon(case: Case) -> Computed:
    log_ratio = rewards(case, beta=1.0).tensor()
    scores = case.hp["beta"] * (math.log(2) + logsigmoid(log_ratio))
    return rows(case, tl.DPO(reduction="none")(scores, tl.preferred()))


@recipe("preference/fdpo_js_hinge")
def slic_jensen_shannon(case: Case) -> Computed:
    log_ratio = rewards(case, beta=1.0).tensor()
    scores = case.hp["beta"] * (math.log(2) + logsigmoid(log_ratio))
    return rows(case, tl.SLiC(reduction="none")(scores, tl.preferred()))


@recipe("preference/dpo_soft_label")
def dpo_soft(case: Case) -> Computed:
    targets = tl.preferred().given(target=case["p_chosen"])
    return rows(case, tl.DPO(reduction="none")(rewards(case), targets))


@recipe("preference/mmpo")
def mmpo(case: Case) -> Computed:
    targets = tl.preferred().given(target=(case.hp["gamma"] * case["score_gap"]).sigmoid())
    return rows(case, tl.DPO(reduction="none")(rewards(case), targets))


@recipe("preference/mmpo_official")
def mmpo_constant(case: Case) -> Computed:
    targets = tl.preferred().given(target=torch.tensor(case.hp["target"]).double().expand(len(case["chosen_logps"])))
    return rows(case, tl.DPO(reduction="none")(rewards(case), targets))


@recipe("preference/irpo")
def irpo(case: Case) -> Computed:
    row = tl.DPO(reduction="none")(rewards(case), tl.preferred())
    return rows(case, row - case.hp["alpha"] * case["chosen_logps"] / case["chosen_nll_len"])


@recipe("preference/rpo")
def rpo(case: Case) -> Computed:
    row = tl.DPO(reduction="none")(rewards(case), tl.preferred())
    return rows(case, row - case.hp["eta"] * case.hp["beta"] * case["chosen_logps"])


@recipe("preference/inpo")
def inpo(case: Case) -> Computed:
    eta, tau = case.hp["eta"], case.hp["tau"]
    policy = torch.stack([case["chosen_logps"], case["rejected_logps"]], 1)
    known = torch.stack([case["ref_chosen_logps"], case["ref_rejected_logps"]], 1)
    before = torch.stack([case["prev_chosen_logps"], case["prev_rejected_logps"]], 1)
    mixture = tau / eta * known + (1 - tau / eta) * before
    row = tl.IPO(tau=eta, reduction="none")(tl.implicit_reward(policy, mixture, beta=1.0), tl.preferred())
    return rows(case, row)


@recipe("preference/dpo_margin")
def odpo(case: Case) -> Computed:
    targets = tl.preferred().given(margin=case["margins"])
    return rows(case, tl.DPO(reduction="none")(rewards(case), targets))


@recipe("preference/marginpo_rdpo")
def length_margin(case: Case) -> Computed:
    shift = -case.hp["length_alpha"] * (case["chosen_len"] - case["rejected_len"])
    return rows(case, tl.DPO(reduction="none")(rewards(case), tl.preferred().given(margin=shift)))


@recipe("preference/dpo_gamma")
def dpo_gamma(case: Case) -> Computed:
    scores = rewards(case, reference=case.hp["ref_weight"])
    return rows(case, tl.DPO(reduction="none")(scores, tl.preferred()))


def reference_free(policy: Tensor, hp: dict[str, object], reduction: str = "none") -> Tensor:
    """CPO and SimPO: a link on beta times log-probabilities."""
    beta, link = float(hp["beta"]), hp.get("link", "sigmoid")  # type: ignore[arg-type]
    if link == "ipo":
        return tl.IPO(tau=beta, reduction=reduction)(tl.implicit_reward(policy, beta=1.0), tl.preferred())
    loss = tl.GPO(
        link="hinge" if link == "hinge" else "logistic",
        margin=float(hp["gamma"]) if link == "simpo" else 0.0,  # type: ignore[arg-type]
        label_smoothing=float(hp.get("label_smoothing", 0.0)),  # type: ignore[arg-type]
        reduction=reduction,
    )
    return loss(tl.implicit_reward(policy, beta=beta), tl.preferred())


@recipe(
    "preference/cpo",
    "preference/cpo_smooth",
    "preference/cpo_hinge",
    "preference/cpo_ipo",
    "preference/simpo",
    "preference/cpo_simpo",
)
def cpo(case: Case) -> Computed:
    row = reference_free(torch.stack([case["chosen"], case["rejected"]], 1), case.hp)
    return rows(case, row, case.hp["nll_weight"] * case["nll"])


@recipe("preference/orpo")
def orpo(case: Case) -> Computed:
    policy = torch.stack([case["chosen"], case["rejected"]], 1)
    loss = tl.ORPO(weight=case.hp["lam"])
    found = {"loss": loss(policy, tl.preferred().given(nll=case["nll"]))}
    if "out.per_row" in case.arrays:
        found["per_row"] = tl.ORPO(weight=case.hp["lam"], with_nll=False, reduction="none")(policy, tl.preferred())
    return found


@recipe("preference/orpo_beta")
def orpo_beta(case: Case) -> Computed:
    hp = case.hp
    policy = torch.stack([case["chosen_logps"], case["rejected_logps"]], 1)
    odds = tl.ORPO(weight=hp["lambda_"], beta=hp["beta"], with_nll=False, reduction="none")
    return rows(case, odds(policy, tl.preferred()) - hp["ce_coef"] * case["chosen_logps"])


@recipe("preference/bt_reward", "preference/bt_reward_margin", "preference/bt_reward_centered", "preference/bt_logexp")
def bradley_terry(case: Case) -> Computed:
    targets = tl.preferred()
    if "margin" in case:
        targets = targets.given(margin=case["margin"])
    row = tl.DPO(reduction="none")(torch.stack([case["chosen"], case["rejected"]], 1), targets)
    return rows(case, row + (case.hp.get("center") or 0.0) * (case["chosen"] + case["rejected"]).square())


@recipe(*(f"preference/kto_{name}" for name in ("mixed", "weighted", "negative_kl", "all_chosen", "all_rejected")))
def kto(case: Case) -> Computed:
    hp = case.hp
    loss = tl.KTO(desirable_weight=hp["desirable_weight"], undesirable_weight=hp["undesirable_weight"])
    apart = hp["beta"] * (case["kl_logps"] - case["ref_kl_logps"])
    scores = tl.implicit_reward(case["logps"], case["ref_logps"], beta=hp["beta"])
    return loss(scores, tl.desirable(case["labels"]), kl=apart)


@recipe("preference/kto_halos")
def kto_tokens(case: Case) -> Computed:
    hp = case.hp
    policy = torch.cat([case["chosen_token_logps"], case["rejected_token_logps"]]).sum(1)
    known = torch.cat([case["ref_chosen_token_logps"], case["ref_rejected_token_logps"]]).sum(1)
    apart = (case["kl_token_logps"] - case["ref_kl_token_logps"]).sum(1)
    n = len(case["chosen_token_logps"])
    loss = tl.KTO(desirable_weight=hp["desirable_weight"], undesirable_weight=hp["undesirable_weight"])
    baseline = hp["beta"] * apart.mean().clamp(min=0)
    scores = tl.implicit_reward(policy, known, beta=hp["beta"])
    return loss(scores, tl.desirable(torch.arange(2 * n) < n), baseline=baseline)


def head(case: Case, prefix: str = "") -> tuple[Tensor, Tensor]:
    """Sums of the targets' log-probabilities under a linear head, and numbers of tokens, of every row."""
    bias = case["bias"].detach() if prefix else case["bias"]
    logits = case[f"{prefix}features"] @ case[f"{prefix}weight"].T + bias
    targets = case["targets"]
    keep = targets != -100
    logp = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    return torch.where(keep, logp, 0.0).sum(1), keep.sum(1)


def halves(x: Tensor) -> Tensor:
    return x.reshape(2, -1).T


@recipe("preference/liger_dpo_sigmoid", "preference/liger_dpo_hinge")
def head_dpo(case: Case) -> Computed:
    (policy, _), (known, _) = head(case), head(case, "ref_")
    link = "hinge" if "hinge" in case.entry["recipe"] else "logistic"
    loss = tl.GPO(link=link, label_smoothing=case.hp.get("label_smoothing", 0.0))
    return loss(tl.implicit_reward(halves(policy), halves(known), beta=case.hp["beta"]), tl.preferred())


def token_nll(total: Tensor, count: Tensor) -> Tensor:
    n = len(total) // 2
    return -total[:n].sum() / count[:n].sum()


@recipe("preference/liger_cpo", "preference/liger_cpo_nll")
def head_cpo(case: Case) -> Computed:
    total, count = head(case)
    return reference_free(halves(total), case.hp, "mean") + case.hp["nll_weight"] * token_nll(total, count)


@recipe("preference/liger_simpo")
def head_simpo(case: Case) -> Computed:
    total, count = head(case)
    value = reference_free(halves(total / count), {**case.hp, "link": "simpo"}, "mean")
    return value + case.hp["nll_weight"] * token_nll(total, count)


@recipe("preference/liger_orpo")
def head_orpo(case: Case) -> Computed:
    total, count = head(case)
    targets = tl.preferred().given(nll=token_nll(total, count))
    return tl.ORPO(weight=case.hp["lam"])(halves(total / count), targets)


@recipe("preference/liger_kto")
def head_kto(case: Case) -> Computed:
    (policy, _), (known, _) = head(case), head(case, "ref_")
    scores = tl.implicit_reward(policy, known, beta=case.hp["beta"])
    return tl.KTO()(scores, tl.desirable(case["labels"]), baseline=case.hp["beta"] * case["kl"])


@recipe("preference/tpo", "preference/tpo_l")
def tpo(case: Case) -> Computed:
    hp = case.hp
    logits, ids, mask = case["logits"][:, :-1], case["input_ids"][:, 1:], case["completion_mask"][:, 1:]
    logp = logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1) * mask.to(logits.dtype)
    total, count = logp.sum(1), mask.sum(1)
    n = len(total) // 3
    policy = total / count.clamp(min=1) if hp["length_normalize"] else total
    pair = policy[: 2 * n].reshape(2, n).T
    link = "simpo" if hp["length_normalize"] else "sigmoid"
    value = reference_free(pair, {**hp, "link": link}, "mean")
    return value - hp["nll_weight"] * total[2 * n :].sum() / count[2 * n :].sum()


# --- lists of responses -----------------------------------------------------------------------------------------


def lists(case: Case) -> tl.Targets:
    return tl.graded(case["labels"], mask=case["mask"])


@recipe("preference/lipo_lambda")
def lipo(case: Case) -> Computed:
    row = tl.LambdaRank(normalize=False, reduction="none")(case["scores"], lists(case))
    return rows(case, row / math.log(2))


@recipe("preference/plackett_luce")
def plackett_luce(case: Case) -> Computed:
    return rows(case, tl.ListMLE(reduction="none")(case["scores"], lists(case)))


@recipe("preference/list_softmax")
def list_softmax(case: Case) -> Computed:
    return rows(case, tl.ListNet(target="normalized", reduction="none")(case["scores"], lists(case)))


@recipe("preference/list_pairwise_logistic", "preference/list_pairwise_hinge")
def list_pairs(case: Case) -> Computed:
    return rows(case, tl.PairwiseLoss(phi=case.hp["link"], reduction="none")(case["scores"], lists(case)))


@recipe("preference/rrhf")
def rrhf(case: Case) -> Computed:
    scores = case["scores"]
    best = case["labels"].masked_fill(~case["mask"], -torch.inf).argmax(1)
    row = tl.PairwiseLoss(phi="hinge", margin=0.0, reduction="none")(scores, lists(case))
    return rows(case, row - scores.gather(1, best[:, None]).squeeze(1))


@recipe("preference/infonca_k4")
def infonca(case: Case) -> Computed:
    shift = torch.zeros_like(case["scores"])
    shift[:, 0] = 0.01
    targets = tl.graded(case["scores"] + shift)
    loss = tl.ListNet(target_temperature=case.hp["temperature"])
    return loss(tl.implicit_reward(case["logps"], case["ref_logps"], beta=case.hp["beta"]), targets)
