"""Open-set and calibration measures, closed-form heads, decision rules, learned links, weights of examples."""

import torch
from torch import Tensor
from torch.func import functional_call

import torchlosses as tl
from tests.mapping import Case, Computed, recipe
from torchlosses import metrics


@recipe("classification/max_logit", "classification/msp", "classification/energy")
def confidence(case: Case) -> Computed:
    name = case.entry["recipe"].split("/")[-1]
    if name == "energy":
        return metrics.energy(case["scores"], case.hp["temperature"])
    return (metrics.max_logit if name == "max_logit" else metrics.max_softmax)(case["scores"])


@recipe("classification/ece_l1", "classification/ece_l2", "classification/ece_max")
def calibration(case: Case) -> Computed:
    return metrics.calibration_error(case["scores"], case["targets"], case.hp["bins"], case.hp["norm"])


@recipe("classification/mahalanobis_score")
def mahalanobis(case: Case) -> Computed:
    train, labels = case["train"], case["labels"]
    score = metrics.MahalanobisScore(train.shape[1], int(labels.max()) + 1, **case.hp).fit(train, labels)
    out = {"loss": score(case["test"]), "class_scores": score.class_scores(case["test"])}
    return {**out, "means": score.means, "precision": score.precision}


@recipe("classification/gaussian_nb_shared")
def naive_bayes_shared(case: Case) -> Computed:
    """Two batches: the first 25 examples, then the rest."""
    train, labels = case["train"], case["labels"]
    head = tl.GaussianNaiveBayes(train.shape[1], int(labels.max()) + 1, **case.hp)
    head.partial_fit(train[:25], labels[:25]).partial_fit(train[25:], labels[25:])
    prediction = head(case["test"]).tensor().argmax(-1)
    out = {"loss": head.log_density(case["test"]).tensor(), "prediction": prediction, "means": head.means}
    return {**out, "shared_variance": head.variance, "prior": head.prior}


@recipe("classification/gaussian_nb_sklearn")
def naive_bayes(case: Case) -> Computed:
    train, labels = case["train"], case["labels"]
    head = tl.GaussianNaiveBayes(train.shape[1], int(labels.max()) + 1, eps=0.0, **case.hp)
    return head.fit(train, labels)(case["test"]).tensor()


@recipe("classification/frechet_mean_rule")
def frechet(case: Case) -> Computed:
    rule = tl.FrechetMean(case["distances"])
    return {"loss": rule(case["probs"]), "prediction": rule.predict(case["probs"])}


@recipe("classification/loki_polytope", "classification/loki_ste")
def loki(case: Case) -> Computed:
    backward = {"ste": "straight_through"}.get(case.hp["backward"], case.hp["backward"])
    hot = tl.FrechetMean(case["distances"]).one_hot(case["probs"], backward, case.hp["eta"], chain=False)
    return (hot * case["cotangent"]).sum()


@recipe("classification/arpl")
def reciprocal_points(case: Case) -> Computed:
    hp = case.hp
    loss = tl.ReciprocalPoints(weight=hp["weight_pl"], temperature=hp["temperature"], label_smoothing=hp["label_smoothing"])
    scores = tl.dot(case["features"], case["points"])
    return functional_call(loss, {"radius": case["radius"].reshape(())}, (scores, case["targets"]))


@recipe("classification/legendre_link")
def legendre(case: Case) -> Computed:
    hp = case.hp
    settings = {k: hp[k] for k in ("blocks", "hidden", "depth")}
    loss = tl.LegendreTron(classes=hp["num_classes"], **settings, reduction="none").double().eval()
    own = dict(loss.named_parameters())
    depth = hp["depth"]
    for key in case.arrays:
        if not key.startswith("out.param."):
            continue
        block, _, group, index = [*key.removeprefix("out.param.").split("."), "", ""][1:5]
        here = f"link.maps.{block}."
        kind = key.rsplit(".", 1)[-1]
        if kind in ("w0", "w1"):
            name = here + kind
        elif group == "actnorms":
            name = f"{here}network.norms.{index}.{kind}"
        elif group == "Wzs":
            place = "first" if index == "0" else "last" if int(index) == depth else f"between.{int(index) - 1}"
            name = f"{here}network.{place}.{kind}"
        elif group == "Wxs":
            place = "last_beside" if int(index) == depth - 1 else f"beside.{index}"
            name = f"{here}network.{place}.{kind}"
        else:
            name = f"{here}network.fresh.{index}.{kind}"
        with torch.no_grad():
            own[name].copy_(case.golden(key).reshape(own[name].shape))
    return loss(case["scores"], case["targets"])


@recipe("classification/normalized_logistic_step")
def normalized_step(case: Case) -> Computed:
    scores, hot = (case["features"] @ case["theta"])[:, None], case["y_pm"][:, None] > 0
    plain = tl.BinaryCrossEntropy()(scores, tl.multi_label(hot))
    normalized = tl.BinaryCrossEntropy(reduction=tl.ResidualNormalized())(scores, tl.multi_label(hot))
    (step,) = torch.autograd.grad(normalized, case["theta"], retain_graph=True)
    new = case["theta"] - case.hp["gamma"] * step
    return {"loss": plain, "beta": normalized / plain, "theta_new": new}


@recipe("classification/poisson_log_loss")
def poisson_log(case: Case) -> Computed:
    return metrics.black_box_log_loss(case["counts"], case["targets"], case.hp["rate"])


@recipe("imbalance_margin/influence_balanced")
def influence(case: Case) -> Computed:
    targets = tl.classes(case["labels"]).given(feature_norm=case["feature_l1"].reshape(-1))
    return tl.InfluenceBalanced(alpha=case.hp["alpha"], eps=case.hp["eps"])(case["scores"], targets)


@recipe("imbalance_margin/dequity")
def dataset_equity(case: Case) -> Computed:
    weights = tl.likelihood_weight(case["likelihood"], case.hp["eta"], case.hp["gamma"])
    return {"loss": (weights * case["losses"]).mean(), "weights": weights}


@recipe("imbalance_margin/rfdlc_none", "imbalance_margin/rfdlc_tail_sensitive")
def integrated_gain(case: Case) -> Computed:
    hp, counts = case.hp, case["class_counts"]
    weight = 1 / counts.double()
    loss = tl.IntegratedGain(
        class_counts=counts,
        class_weight=weight if hp["epoch"] >= hp["reweight_epoch"] else torch.ones_like(weight),
        utility=None if hp["utility"] == "none" else metrics.tail_sensitive_utility(len(counts), hp["u_value"]),
        alpha=hp["alpha"],
        max_margin=hp["max_m"],
        scale=hp["ldam_scale"],
    )
    names = sorted(k for k in case.inputs if k.startswith("logits"))
    values = [loss(case[k], case["labels"]) for k in names]
    apart = tl.repulsive_logdet([case[k.replace("logits", "weights")].flatten() for k in names])
    fading: Tensor = torch.tensor(-hp["epoch"] / hp["tau"], dtype=torch.float64).exp()
    return sum(values) / len(values) + fading * apart
