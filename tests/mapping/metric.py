"""Pairs, triplets and rows of similarities."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


def relation(case: Case, form: str = "cosine") -> tuple[tl.Scores | Tensor, tl.Targets]:
    """Scores and same-label targets of one set, of queries with keys, or as the case gives them."""
    if "scores" in case:
        return case["scores"], tl.multi_label(case["target"])
    if "queries" in case:
        queries, keys = case["queries"], case["keys"]
        targets = tl.same_label(case["labels"], case["key_labels"])
    else:
        queries, keys = case["embeddings"], None
        targets = tl.same_label(case["labels"])
    if form == "euclidean":
        keys = None if keys is None else normalize(keys, dim=-1)
        return tl.euclidean(normalize(queries, dim=-1), keys), targets
    return tl.cosine(queries, keys), targets


def rows_and_loss(case: Case, loss: Any, scores: Any, targets: tl.Targets) -> Computed:
    value = loss(scores, targets)
    if "out.rows" not in case.arrays:
        return value
    each = type(loss)(**{**loss._given, "reduction": "none"})(scores, targets)
    return {"loss": value, "rows": each.detach()}


@recipe(
    "metric/multisimilarity",
    "metric/multisimilarity_mined",
    "metric/multisimilarity_ref",
    "metric/multisimilarity_scores",
    "metric/multisimilarity_scores_cos",
)
def multi_similarity(case: Case) -> Computed:
    return rows_and_loss(case, tl.MultiSimilarity(**case.hp), *relation(case))


@recipe("metric/ms_official")
def ms_official(case: Case) -> Computed:
    hp = case.hp
    loss = tl.MultiSimilarity(alpha=hp["alpha"], beta=hp["beta"], base=hp["base"], epsilon=hp["mining_epsilon"])
    x = case["embeddings"]
    scores = tl.dot(x).tensor()
    same = case["labels"][:, None] == case["labels"]
    exists = (scores != -torch.inf) & ~(same & (scores >= 1 - hp.get("self_threshold", 1e-5)))
    return loss(tl.dot(x), tl.multi_label(same, mask=exists))


@recipe("metric/gpw_weights_own")
def gpw_weights(case: Case) -> Computed:
    scores = case["scores"].detach().requires_grad_()
    rows = tl.MultiSimilarity(**case.hp, reduction="sum")(scores, tl.multi_label(case["target"]))
    weights = torch.autograd.grad(rows, scores)[0].abs()
    return {"weights": weights}


def circle_loss(case: Case, **settings: Any) -> tl.Circle:
    return tl.Circle(margin=case.hp.get("m", 0.4), gamma=case.hp.get("gamma", 80), **settings)


@recipe("metric/circle", "metric/circle_ref", "metric/circle_scores", "metric/circle_scores_cos")
def circle(case: Case) -> Computed:
    return rows_and_loss(case, circle_loss(case), *relation(case))


@recipe("metric/circle_setwise")
def circle_setwise(case: Case) -> Computed:
    scores = torch.cat([case["sp"], case["sn"]])[None]
    hot = torch.arange(scores.shape[1])[None] < len(case["sp"])
    return circle_loss(case, over="rows")(scores, tl.multi_label(hot))


@recipe("metric/circle_wholebatch")
def circle_wholebatch(case: Case) -> Computed:
    x, labels = case["embeddings"], case["labels"]
    first, second = torch.triu_indices(len(x), len(x), 1)
    scores = (x @ x.T)[first, second][None]
    return circle_loss(case, over="rows")(scores, tl.multi_label((labels[first] == labels[second])[None]))


@recipe("metric/supcon", "metric/supcon_ref", "metric/supcon_scores", "metric/supcon_scores_cos")
def supcon(case: Case) -> Computed:
    loss = tl.SupCon(temperature=case.hp.get("temperature", 0.1), over="active")
    return rows_and_loss(case, loss, *relation(case))


def ntxent_loss(case: Case) -> tl.InfoNCE:
    temperature = case.hp.get("temperature", 0.07)
    return tl.InfoNCE(temperature=temperature, positives_in_denominator="own", over="pairs")


@recipe("metric/ntxent", "metric/ntxent_ref", "metric/ntxent_scores", "metric/ntxent_scores_cos")
def ntxent(case: Case) -> Computed:
    return ntxent_loss(case)(*relation(case))


@recipe("metric/ntxent_selfsup_sym")
def ntxent_selfsup_sym(case: Case) -> Computed:
    z = torch.cat([case["z1"], case["z2"]])
    return ntxent_loss(case)(tl.cosine(z), tl.same_label(torch.arange(len(case["z1"])).repeat(2)))


@recipe("metric/ntxent_selfsup_asym")
def ntxent_selfsup_asym(case: Case) -> Computed:
    return ntxent_loss(case)(tl.cosine(case["z1"], case["z2"]), tl.paired())


@recipe("metric/npairs")
def npairs(case: Case) -> Computed:
    labels = case["labels"]
    chosen = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1).tolist()
        if len(members) > 1:
            chosen.append(members[:2])
    anchor, positive = torch.tensor(chosen).T
    x = case["embeddings"]
    return tl.InfoNCE(temperature=1)(tl.cosine(x[anchor], x[positive]), tl.paired())


@recipe("metric/sphere_contrastive")
def sphere_contrastive(case: Case) -> Computed:
    x0, x1 = case["x0"], case["x1"]
    return tl.InfoNCE(temperature=case.hp["tau"])(tl.concat(tl.cosine(x0, x1), tl.cosine(x0)), tl.paired())


# --- contrastive ------------------------------------------------------------------------------------------------


def margins(case: Case, *, distance: bool, **settings: Any) -> tl.Contrastive:
    form = "distance" if distance else "similarity"
    positive, negative = case.hp.get("pos_margin"), case.hp.get("neg_margin")
    return tl.Contrastive(positive_margin=positive, negative_margin=negative, form=form, **settings)


@recipe("metric/contrastive", "metric/contrastive_ref")
def contrastive(case: Case) -> Computed:
    return margins(case, distance=True)(*relation(case, "euclidean"))


@recipe("metric/contrastive_cos", "metric/contrastive_scores", "metric/contrastive_scores_cos")
def contrastive_cosine(case: Case) -> Computed:
    return margins(case, distance=False)(*relation(case))


def snr(x: Tensor) -> Tensor:
    """Minus the SNR distance, variance of the difference over the variance of the row's own features."""
    scores = -(x[:, None] - x[None]).var(-1) / x.var(-1)[:, None]
    return scores.masked_fill(torch.eye(len(x), dtype=torch.bool), -torch.inf)


@recipe("metric/snr_contrastive")
def snr_contrastive(case: Case) -> Computed:
    scores = snr(normalize(case["embeddings"], dim=-1))
    return margins(case, distance=True)(scores, tl.same_label(case["labels"]))


@recipe(
    "metric/reduce_mean_contrastive",
    "metric/reduce_sum_contrastive",
    "metric/reduce_avgnonzero_contrastive",
    "metric/reduce_peranchor_contrastive",
)
def reduced_contrastive(case: Case) -> Computed:
    name = case.hp["reduction"]
    over = {"mean": "pairs", "sum": "pairs", "avgnonzero": "active", "peranchor": "rows"}[name]
    reduction = "sum" if name == "sum" else "mean"
    return margins(case, distance=True, over=over, reduction=reduction)(*relation(case, "euclidean"))


@recipe(
    "metric/reduce_mean_multisimilarity",
    "metric/reduce_sum_multisimilarity",
    "metric/reduce_avgnonzero_multisimilarity",
)
def reduced_multi_similarity(case: Case) -> Computed:
    name = case.hp["reduction"]
    over = "active" if name == "avgnonzero" else "rows"
    loss = tl.MultiSimilarity(over=over, reduction="sum" if name == "sum" else "mean")
    return loss(*relation(case))


@recipe("metric/st_contrastive")
def st_contrastive(case: Case) -> Computed:
    scores = tl.per_row(case["x1"], case["x2"][:, None])
    loss = tl.Contrastive(
        positive_margin=1,
        negative_margin=1 - case.hp["margin"],
        squared=case.hp.get("squared", True),
        over="rows",
    )
    return loss(scores, tl.multi_label(case["labels"][:, None]))


@recipe("metric/xbm_contrastive")
def xbm(case: Case) -> Computed:
    def step(x: Tensor, y: Tensor, memory: Tensor, labels: Tensor, start: int) -> Tensor:
        same = y[:, None] == labels
        exists = torch.arange(len(labels)) != torch.arange(len(x))[:, None] + start
        scores = tl.euclidean(normalize(x, dim=-1), normalize(memory, dim=-1))
        return margins(case, distance=True)(scores, tl.multi_label(same, mask=exists))

    x1, y1, x2, y2 = case["x1"], case["y1"], case["x2"], case["y2"]
    memory, labels = x1.detach(), y1
    first = step(x1, y1, memory, labels, 0)
    memory, labels = torch.cat([memory, x2.detach()]), torch.cat([labels, y2])
    size = case.hp["memory_size"]
    memory, labels = memory[-size:], labels[-size:]
    return {"loss": step(x2, y2, memory, labels, len(labels) - len(y2)), "loss1": first.detach()}


# --- triplets ---------------------------------------------------------------------------------------------------


@recipe("metric/triplet_all", "metric/triplet_ref")
def triplet_all(case: Case) -> Computed:
    return tl.TripletMargin(margin=case.hp.get("margin", 0.05))(*relation(case, "euclidean"))


@recipe("metric/triplet_mean")
def triplet_mean(case: Case) -> Computed:
    return tl.TripletMargin(margin=case.hp["margin"], over="terms")(*relation(case, "euclidean"))


@recipe("metric/triplet_smooth")
def triplet_smooth(case: Case) -> Computed:
    loss = tl.TripletMargin(margin=case.hp["margin"], smooth=True, over="terms")
    return loss(*relation(case, "euclidean"))


@recipe("metric/triplet_cos", "metric/triplet_scores", "metric/triplet_scores_cos")
def triplet_cosine(case: Case) -> Computed:
    return tl.TripletMargin(margin=case.hp["margin"])(*relation(case))


@recipe("metric/triplet_soft_scores", "metric/triplet_soft_scores_cos")
def triplet_soft(case: Case) -> Computed:
    return tl.TripletMargin(margin=case.hp["margin"], smooth=True, over="terms")(*relation(case))


@recipe("metric/snr_triplet")
def snr_triplet(case: Case) -> Computed:
    scores = snr(normalize(case["embeddings"], dim=-1))
    return tl.TripletMargin(margin=case.hp["margin"])(scores, tl.same_label(case["labels"]))


@recipe(
    "metric/triplet_batchhard",
    "metric/triplet_batchhard_soft",
    "metric/triplet_semihard",
    "metric/triplet_hard",
    "metric/triplet_easypos_semihard",
)
def triplet_mined(case: Case) -> Computed:
    mining = {
        "batchhard": "hard",
        "batchhard_soft": "hard",
        "semihard": "band",
        "hard": "violating",
        "easypos_semihard": "easy",
    }[case.hp["mining"]]
    soft = case.hp.get("soft", False)
    over = "terms" if soft else "active"
    loss = tl.TripletMargin(margin=case.hp["margin"], mining=mining, smooth=soft, over=over)
    return loss(*relation(case, "euclidean"))


def sentence_scores(case: Case, *, own: bool) -> tuple[tl.Scores, tl.Targets]:
    """As sentence-transformers: raw Euclidean distance or 1 - cosine; ``own`` makes an anchor its own positive."""
    x = case["embeddings"]
    form = tl.euclidean if case.hp["distance"] == "l2" else tl.cosine
    return form(x, x) if own else form(x), tl.same_label(case["labels"])


@recipe("metric/st_batchhard_cos", "metric/st_batchhard_l2")
def st_batch_hard(case: Case) -> Computed:
    loss = tl.TripletMargin(margin=case.hp["margin"], mining="hard", over="rows")
    return loss(*sentence_scores(case, own=True))


@recipe("metric/st_batchhard_soft_cos", "metric/st_batchhard_soft_l2")
def st_batch_hard_soft(case: Case) -> Computed:
    loss = tl.TripletMargin(margin=0, mining="hard", smooth=True, over="rows")
    return loss(*sentence_scores(case, own=True))


@recipe("metric/st_batchall_cos", "metric/st_batchall_l2")
def st_batch_all(case: Case) -> Computed:
    return tl.TripletMargin(margin=case.hp["margin"])(*sentence_scores(case, own=False))


@recipe("metric/st_semihard_cos", "metric/st_semihard_l2")
def st_semi_hard(case: Case) -> Computed:
    loss = tl.TripletMargin(margin=case.hp["margin"], mining="semi-hard", over="terms")
    return loss(*sentence_scores(case, own=False))


@recipe("metric/batchhard_own")
def batch_hard_own(case: Case) -> Computed:
    scores, targets = tl.euclidean(case["embeddings"]), tl.same_label(case["labels"])
    settings = {"margin": case.hp["margin"], "mining": "hard", "over": "valid"}
    each = tl.TripletMargin(**settings, reduction="none")(scores, targets).detach()
    anchors = case.golden("out.anchors").long()
    return {
        "loss": tl.TripletMargin(**settings)(scores, targets),
        "rows": each[anchors],
    }


@recipe("metric/torch_triplet_p2", "metric/torch_triplet_p1", "metric/torch_triplet_swap", "metric/st_triplet")
def torch_triplet(case: Case) -> Computed:
    p, added = case.hp.get("p", 2), 0.0 if case.entry["recipe"] == "metric/st_triplet" else 1e-6
    anchor, positive, negative = case["anchor"], case["positive"], case["negative"]

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x - y + added, ord=p, dim=-1)

    far = distance(anchor, negative)
    if case.hp.get("swap"):
        far = far.minimum(distance(positive, negative))
    scores = -torch.stack([distance(anchor, positive), far], 1)
    rows = tl.TripletMargin(margin=case.hp["margin"], over="rows", reduction="none")(scores, tl.preferred())
    return {"loss": rows.mean(), "rows": rows} if "out.rows" in case.arrays else rows.mean()


@recipe("metric/prototriplet")
def prototriplet(case: Case) -> Computed:
    squared = (case["queries"][:, None] - case["prototypes"]).square().sum(-1)
    loss = tl.TripletMargin(margin=case.hp["margin"], mining="hard", over="rows")
    return loss(-(squared + 1e-6).sqrt(), tl.classes(case["labels"]))


@recipe("metric/hit_clustering")
def hit_clustering(case: Case) -> Computed:
    root = case.hp["c"] ** 0.5

    def score(x: Tensor, y: Tensor) -> Tensor:
        inside = (1 - (root * x).square().sum(-1)) * (1 - (root * y).square().sum(-1))
        return -torch.acosh(1 + 2 * (root * (x - y)).square().sum(-1) / inside) / root

    scores = torch.stack([score(case["child"], case["parent"]), score(case["child"], case["negative"])], 1)
    return tl.TripletMargin(margin=case.hp["margin"], over="rows")(scores, tl.preferred())


@recipe("metric/torch_margin_ranking")
def margin_ranking(case: Case) -> Computed:
    sign = case["y"][:, None]
    scores = torch.stack([case["s1"], case["s2"]], 1) * sign
    return tl.TripletMargin(margin=case.hp["margin"], over="rows")(scores, tl.preferred())


@recipe("metric/torch_cosine_embedding")
def cosine_embedding(case: Case) -> Computed:
    loss = tl.Contrastive(positive_margin=1, negative_margin=case.hp["margin"], over="rows")
    scores = tl.per_row(case["x1"], case["x2"][:, None])
    return loss(scores, tl.multi_label(case["y"][:, None] > 0))


@recipe("metric/proxynca")
def proxy_nca(case: Case) -> Computed:
    """Minus the squared distance of unit vectors is 2 cos - 2, and a softmax knows no shift."""
    loss = tl.InfoNCE(temperature=1 / (2 * case.hp["softmax_scale"]))
    return loss(tl.cosine(case["embeddings"], case["weight"]), tl.classes(case["labels"]))
