"""InfoNCE and its relatives."""

import torch
from torch import Tensor

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


def two_views(case: Case) -> tuple[Tensor, Tensor]:
    """Both views of every example on top of each other, and the examples' numbers."""
    z1, z2 = case["z1"], case["z2"]
    return torch.cat([z1, z2]), torch.arange(len(z1)).repeat(2)


@recipe("contrastive/ntxent", "contrastive/dcl", "contrastive/slip_simclr")
def ntxent(case: Case) -> Computed:
    z, example = two_views(case)
    rule = case.hp.get("positives_in_denominator", "all")
    loss = tl.InfoNCE(temperature=case.hp["temperature"], positives_in_denominator=rule)
    return loss(tl.cosine(z), tl.same_label(example))


@recipe("contrastive/directclr")
def directclr(case: Case) -> Computed:
    z, example = two_views(case)
    scores = tl.cosine(z).truncate(case.hp["loss_dim"])
    return tl.InfoNCE(temperature=case.hp["temperature"])(scores, tl.same_label(example))


@recipe("contrastive/dclw")
def dclw(case: Case) -> Computed:
    z, example = two_views(case)
    pair = torch.nn.functional.cosine_similarity(case["z1"], case["z2"], dim=-1).detach()
    weight = 2 - len(pair) * (pair / case.hp["sigma"]).softmax(0)
    loss = tl.InfoNCE(temperature=case.hp["temperature"], positives_in_denominator="none")
    return loss(tl.cosine(z), tl.same_label(example).given(positive_weight=weight.repeat(2)))


@recipe("contrastive/dcl_oneway")
def dcl_oneway(case: Case) -> Computed:
    z1, z2 = case["z1"], case["z2"]
    loss = tl.InfoNCE(temperature=case.hp["temperature"], positives_in_denominator="none")
    return loss(tl.concat(tl.dot(z1, z2), tl.dot(z1)), tl.paired())


@recipe("contrastive/clip")
def clip(case: Case) -> Computed:
    return tl.SymmetricInfoNCE(temperature=1)(tl.dot(case["img"], case["txt"]) * case["scale"], tl.paired())


@recipe("contrastive/infcl_ring")
def infcl_ring(case: Case) -> Computed:
    return tl.SymmetricInfoNCE(temperature=1)(tl.dot(case["q"], case["k"]) * case["scale"], tl.paired())


@recipe("contrastive/clip_distill")
def clip_distill(case: Case) -> Computed:
    scores = tl.dot(case["img"], case["txt"]) * case["scale"]
    teacher = (tl.dot(case["timg"], case["ttxt"]) * case["tscale"]).tensor().detach()
    loss = tl.InfoNCE(temperature=1)
    both = loss(scores, tl.soft(teacher.softmax(1))) + loss(scores.T, tl.soft(teacher.T.softmax(1)))
    return {"loss": both / 2, "contrastive": tl.SymmetricInfoNCE(temperature=1)(scores, tl.paired())}


@recipe("contrastive/siglip")
def siglip(case: Case) -> Computed:
    loss = tl.SigLIP(initial_scale=1, initial_bias=0, learnable=False)
    return loss(tl.dot(case["img"], case["txt"]) * case["scale"] + case["bias"], tl.paired())


@recipe("contrastive/mnrl")
def mnrl(case: Case) -> Computed:
    scores = tl.cosine(case["a"], torch.cat([case["p"], case["n"]]))
    return tl.InfoNCE(temperature=1 / case.hp["scale"])(scores, tl.paired())


@recipe("contrastive/mnrl_symmetric")
def mnrl_symmetric(case: Case) -> Computed:
    return tl.SymmetricInfoNCE(temperature=1 / case.hp["scale"])(tl.cosine(case["a"], case["p"]), tl.paired())


@recipe("contrastive/mnrl_joint")
def mnrl_joint(case: Case) -> Computed:
    scores = tl.cosine(case["a"], torch.cat([case["p"], case["n"]]))
    return tl.JointInfoNCE(temperature=1 / case.hp["scale"])(scores, tl.paired())


@recipe("contrastive/mnrl_hardness")
def mnrl_hardness(case: Case) -> Computed:
    scores = tl.cosine(case["a"], torch.cat([case["p"], case["n"]]))
    own = torch.eye(len(case["a"]), dtype=torch.bool)
    chosen = {
        "in_batch_negatives": torch.cat([~own, ~own], 1),
        "hard_negatives": torch.cat([torch.zeros_like(own), own], 1),
        "all_negatives": torch.cat([~own, torch.ones_like(own)], 1),
    }[case.hp["hardness_mode"]]
    weight = case.hp["hardness_strength"] * scores.tensor().detach() * chosen.to(case["a"].dtype)
    return tl.InfoNCE(temperature=1 / case.hp["scale"])(scores, tl.paired().given(log_weight=weight))


@recipe("contrastive/gist")
def gist(case: Case) -> Computed:
    def columns(a: Tensor, p: Tensor, n: Tensor) -> tl.Scores:
        return tl.concat(tl.cosine(a, p), tl.cosine(a, a), tl.cosine(p, p), tl.cosine(a, n))

    loss = tl.GuidedFilter(
        tl.InfoNCE(temperature=case.hp["temperature"]),
        margin=case.hp["margin"],
        strategy=case.hp["margin_strategy"],
    )
    guide = columns(case["a_guide"], case["p_guide"], case["n_guide"])
    return loss(columns(case["a"], case["p"], case["n"]), tl.paired().guided(guide))


@recipe("contrastive/ct_inbatch")
def ct_inbatch(case: Case) -> Computed:
    scores = tl.cosine(case["a"], case["p"]) * case["logit_scale"].exp()
    return tl.SymmetricInfoNCE(temperature=1)(scores, tl.paired())


@recipe("contrastive/matryoshka_mnrl")
def matryoshka(case: Case) -> Computed:
    loss, scores = tl.InfoNCE(temperature=1 / case.hp["scale"]), tl.cosine(case["a"], case["p"])
    weighted = zip(case.hp["matryoshka_weights"], case.hp["matryoshka_dims"], strict=True)
    return torch.stack([w * loss(scores.truncate(dim), tl.paired()) for w, dim in weighted]).sum()


@recipe("contrastive/supcon", "contrastive/supcon_lonely")
def supcon(case: Case) -> Computed:
    z = case["features"].transpose(0, 1).flatten(0, 1)
    labels = case["labels"].repeat(case["features"].shape[1])
    loss = tl.SupCon(temperature=case.hp["temperature"], base_temperature=case.hp["base_temperature"])
    return loss(tl.dot(z), tl.same_label(labels))


@recipe("contrastive/rmt_contrastive")
def rmt(case: Case) -> Computed:
    count, views, _ = case["features"].shape
    labels = torch.arange(count).repeat_interleave(views)
    return tl.SupCon(temperature=case.hp["temperature"])(tl.cosine(case["features"].flatten(0, 1)), tl.same_label(labels))


@recipe("contrastive/supcon_pml")
def supcon_pml(case: Case) -> Computed:
    loss = tl.SupCon(temperature=case.hp["temperature"], over="active")
    return loss(tl.cosine(case["z"]), tl.same_label(case["labels"]))


@recipe("contrastive/ntxent_pml")
def ntxent_pml(case: Case) -> Computed:
    loss = tl.InfoNCE(temperature=case.hp["temperature"], positives_in_denominator="own", over="pairs")
    return loss(tl.cosine(case["z"]), tl.same_label(case["labels"]))


@recipe("contrastive/cwcl")
def cwcl(case: Case) -> Computed:
    p, q = case["p"], case["q"]
    weight = (1 + tl.cosine(p, p).tensor().detach()) / 2
    weight = weight / weight.sum(1, keepdim=True)
    loss = tl.InfoNCE(temperature=case.hp["temperature"])
    weighted = loss(tl.cosine(p, q), tl.soft(weight))
    plain = loss(tl.cosine(q, p), tl.paired())
    return {"loss": weighted + plain, "weighted_direction": weighted, "plain_direction": plain}


@recipe("contrastive/hard_infonce")
def hard_infonce(case: Case) -> Computed:
    loss = tl.HardNegatives(tl.InfoNCE(temperature=case.hp["temperature"]), k=case.hp["k"])
    return loss(case["scores"], tl.paired())


@recipe("contrastive/infonce_queue")
def infonce_queue(case: Case) -> Computed:
    scores = tl.concat(tl.per_row(case["q"], case["k"][:, None]), tl.cosine(case["q"], case["queue"]))
    own = torch.zeros(len(case["q"]), dtype=torch.long)
    return tl.InfoNCE(temperature=case.hp["temperature"])(scores, tl.classes(own))


@recipe("contrastive/weighted_infonce_all", "contrastive/weighted_infonce_own", "contrastive/weighted_infonce_none")
def weighted_infonce(case: Case) -> Computed:
    loss = tl.InfoNCE(temperature=1, positives_in_denominator=case.hp["rule"], reduction="none")
    exists = case["log_weights"] != -torch.inf
    targets = tl.soft(case["targets"], mask=exists).given(log_weight=case["log_weights"])
    rows = loss(case["scores"], targets)
    return {"loss": rows.mean(), "rows": rows}


@recipe("contrastive/codiemb_ir")
def codiemb(case: Case) -> Computed:
    q, docs = case["q"], case["docs"]
    p, m = case.hp["positives"], case.hp["negatives"]
    groups = docs.reshape(len(q), p + m, -1)
    loss = tl.InfoNCE(temperature=case.hp["temperature"], positives_in_denominator="own")
    negatives = groups[:, p:].flatten(0, 1)
    slots = [loss(tl.dot(q, torch.cat([groups[:, k], negatives])), tl.paired()) for k in range(p)]
    return torch.stack(slots).mean()


@recipe("contrastive/angle_ibn")
def angle_ibn(case: Case) -> Computed:
    texts = torch.cat([case["a"], case["p"]])
    n = len(case["a"])
    hot = torch.zeros(2 * n, 2 * n, dtype=torch.bool)
    pair = torch.arange(n)
    hot[pair, pair + n] = hot[pair + n, pair] = case["labels"] == case.hp["label"]
    return tl.InfoNCE(temperature=1 / case.hp["scale"])(tl.cosine(texts), tl.multi_label(hot))


@recipe("contrastive/meow_infonce")
def meow(case: Case) -> Computed:
    apart = (case["clusters"][:, :, None] != case["clusters"][:, None, :]).sum(0)
    loss = tl.InfoNCE(temperature=case.hp["tau"], positives_in_denominator="none")
    weight = apart.to(case["z1"].dtype).log()
    return loss(tl.dot(case["z1"], case["z2"]), tl.paired().given(log_weight=weight))


@recipe("contrastive/adameow")
def adameow(case: Case) -> Computed:
    z1, z2 = case["z1"], case["z2"]
    hidden = ((z1[:, None] + z2[None]) @ case["w1"].T + case["b1"]).tanh()
    weight = torch.nn.functional.logsigmoid((hidden @ case["w2"].T + case["b2"]).squeeze(-1))
    return tl.InfoNCE(temperature=case.hp["tau"])(tl.dot(z1, z2), tl.paired().given(log_weight=weight))


@recipe("contrastive/promcse_eh")
def promcse(case: Case) -> Computed:
    scores = tl.cosine(case["a"], torch.cat([case["p"], case["n"]]))
    own = torch.eye(len(case["a"]), dtype=case["a"].dtype) * case.hp["hard_negative_weight"]
    weight = torch.cat([torch.zeros_like(own), own], 1)
    hinge = tl.TripletMargin(margin=case.hp["margin"], mining="hard", over="rows")(scores, tl.paired())
    base = tl.InfoNCE(temperature=case.hp["temperature"])(scores, tl.paired().given(log_weight=weight))
    return {"loss": base + case.hp["weight"] * hinge, "hinge": hinge}


@recipe("contrastive/icon_kl")
def icon_kl(case: Case) -> Computed:
    scores = tl.cosine(case["z"], case["z"]) / (2 * case.hp["sigma"] ** 2)
    return tl.InfoNCE(temperature=1)(scores, tl.soft(case["p"]))


@recipe("contrastive/pair_contrastive")
def pair_contrastive(case: Case) -> Computed:
    scores = tl.per_row(case["a"], case["p"][:, None])
    loss = tl.Contrastive(positive_margin=1, negative_margin=1 - case.hp["margin"], squared=True, over="rows")
    return loss(scores, tl.multi_label(case["labels"][:, None]))


@recipe("contrastive/mega_batch_margin")
def mega_batch_margin(case: Case) -> Computed:
    margins = {"positive_margin": case.hp["positive_margin"], "negative_margin": case.hp["negative_margin"]}
    loss = tl.HardNegatives(tl.Contrastive(**margins, over="rows"), k=1)
    return loss(tl.cosine(case["a"], case["p"]), tl.paired())
