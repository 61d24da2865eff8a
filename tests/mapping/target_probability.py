"""Robust, normalized, tempered and squared losses, and objectives about confidence."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

import torchlosses as tl
from tests.mapping import Case, Computed, recipe

ACTIVE = {"NCE": "cross-entropy", "NFL": "focal", "NGCE": "generalized"}
PASSIVE = {"MAE": "mae", "RCE": "reverse"}


def reduced(case: Case, kind: type[tl.RowLoss], targets: tl.Targets | Tensor | None = None, **hp: object) -> Computed:
    """The rows where the file has them without a reduction; else the mean, and the rows where the file has both."""
    targets = case["targets"] if targets is None else targets
    rows = kind(**hp, reduction="none")
    if case.reduction == "none":
        return rows(case["scores"], targets)
    out = {"loss": kind(**hp)(case["scores"], targets)}
    if "out.rows" in case.arrays:
        out["rows"] = rows(case["scores"], targets)
    return out


def given(case: Case, *names: str) -> dict[str, object]:
    """Those of the case's hyperparameters; a loss's own default stands for the others."""
    return {name: case.hp[name] for name in names if name in case.hp}


@recipe("classification/nce")
def nce(case: Case) -> Computed:
    return reduced(case, tl.NormalizedCrossEntropy)


@recipe("classification/ngce")
def ngce(case: Case) -> Computed:
    return reduced(case, tl.NormalizedGeneralizedCrossEntropy, **given(case, "q"))


@recipe("classification/nfl")
def nfl(case: Case) -> Computed:
    return reduced(case, tl.NormalizedFocal, **given(case, "gamma", "detach_weight"))


@recipe(
    "classification/apl_nce_rce",
    "classification/apl_nce_mae",
    "classification/apl_nfl_rce",
    "classification/apl_nfl_mae",
    "classification/apl_ngce_rce",
    "classification/apl_ngce_mae",
)
def active_passive(case: Case) -> Computed:
    """The released code, whose focusing factors carry no gradient."""
    names = {"active": ACTIVE[case.hp["active"]], "passive": PASSIVE[case.hp["passive"]], "detach_weight": True}
    return reduced(case, tl.ActivePassive, **names, **given(case, "alpha", "beta", "gamma", "q"))


@recipe("classification/agce")
def agce(case: Case) -> Computed:
    return reduced(case, tl.AsymmetricGCE, **given(case, "a", "q"))


@recipe("classification/aul")
def aul(case: Case) -> Computed:
    return reduced(case, tl.AsymmetricUnhinged, **given(case, "a", "q"))


@recipe("classification/ael")
def ael(case: Case) -> Computed:
    return reduced(case, tl.AsymmetricExponential, **given(case, "a"))


@recipe("classification/truncated_gce_min")
def truncated(case: Case) -> Computed:
    return reduced(case, tl.TruncatedGCE, **given(case, "q", "k"))


@recipe("classification/truncated_gce_prune")
def pruned(case: Case) -> Computed:
    loss = tl.PrunedGCE(examples=case.hp["num_examples"], **given(case, "q", "k"))
    targets = tl.classes(case["targets"]).given(ids=case["ids"])
    loss.prune(case["scores0"], targets)
    return loss(case["scores"], targets)


@recipe("classification/jensen_shannon", "classification/jensen_shannon_soft")
def jensen_shannon(case: Case) -> Computed:
    return reduced(case, tl.JensenShannon, **given(case, "pi"))


@recipe("classification/robust_log")
def robust_log(case: Case) -> Computed:
    return reduced(case, tl.RobustLog, **given(case, "alpha"))


@recipe("classification/encouraging_le")
def encouraging(case: Case) -> Computed:
    smoothing = case.hp.get("label_smoothing", 0.0)
    targets = case["targets"]
    if smoothing and not targets.is_floating_point():
        columns = case["scores"].shape[1]
        targets = one_hot(targets, columns).to(case["scores"].dtype) * (1 - smoothing) + smoothing / columns
    return reduced(case, tl.Encouraging, targets, **given(case, "log_end"))


@recipe("classification/squentropy", "classification/squentropy_own")
def squentropy(case: Case) -> Computed:
    return reduced(case, tl.Squentropy, **given(case, "weight"))


@recipe("classification/rescaled_mse", "classification/rescaled_square")
def rescaled_square(case: Case) -> Computed:
    return reduced(case, tl.RescaledSquare, **given(case, "k", "M"))


@recipe("classification/bias_local", "classification/bias_global")
def bias(case: Case) -> Computed:
    """Called before with half the features, on the same object."""
    normalization = {"local": "batch", "global": "ever"}[case.hp["normalization"]]
    loss = tl.BiasLoss(normalization=normalization, **given(case, "alpha", "beta")).double()
    first, targets = (tl.classes(case["targets"]).given(features=scale * case["features"]) for scale in (0.5, 1.0))
    return {"first_call": loss(case["scores"], first).detach(), "loss": loss(case["scores"], targets)}


@recipe("classification/bi_tempered")
def bi_tempered(case: Case) -> Computed:
    return reduced(case, tl.BiTempered, **given(case, "t1", "t2", "label_smoothing"))


@recipe("classification/confidence_penalty")
def confidence_penalty(case: Case) -> Computed:
    return reduced(case, tl.ConfidencePenalty, **given(case, "beta"))


@recipe("classification/dco_N")
def direct_coverage(case: Case) -> Computed:
    return tl.DirectCoverage(attempts=case.hp["N"], reduction="none")(case["scores"])


@recipe("classification/smooth_adv_comp_sum_tau")
def smooth_adversarial(case: Case) -> Computed:
    loss = tl.SmoothAdversarialCompSum(reduction="none", **given(case, "tau", "rho", "nu"))
    return loss(case["clean"], tl.classes(case["targets"]).given(adversarial=case["adv"]))


@recipe("classification/correctness_aware")
def correctness_aware(case: Case) -> Computed:
    targets = tl.classes(case["targets"]).given(temperature=case["temperature"])
    return reduced(case, tl.CorrectnessAware, targets)


@recipe("classification/ensloss_lam")
def ensloss(case: Case) -> Computed:
    return tl.EnsLoss(power=case.hp["lam"])(case["scores"], case["targets"], normals=case["normals"])


@recipe("classification/reject_surrogate")
def reject(case: Case) -> Computed:
    return reduced(case, tl.RejectionSurrogate, **given(case, "c", "alpha"))


@recipe("ranking/rax_poly1")
def poly_on_raw_grades(case: Case) -> Computed:
    """Cross-entropy with the grades as they are; the polynomial with their shares, even ones where all grades are 0."""
    scores, mask = case["scores"], case["mask"]
    grade = torch.where(mask, case["relevance"].to(scores.dtype), 0.0)
    total, number = grade.sum(-1, keepdim=True), mask.sum(-1, keepdim=True).clamp(min=1)
    share = torch.where(total > 0, grade / torch.where(total > 0, total, 1.0), mask.to(scores.dtype) / number)
    poly, plain = tl.PolyLoss(epsilons=case.hp["epsilon"], reduction="none"), tl.CrossEntropy(reduction="none")
    raw, even = tl.soft(grade, mask), tl.soft(share, mask)
    rows = plain(scores, raw) + poly(scores, even) - plain(scores, even)
    return {"loss": rows.sum() / mask.any(-1).sum(), "row": rows}
