"""Objectives that are not row rules: regression, overlap, whole batches of representations."""

from __future__ import annotations

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


@recipe("regression_vision/huber")
def huber(case: Case) -> Computed:
    return tl.Huber(delta=case.hp["delta"])(case["pred"], case["target"])


@recipe("regression_vision/smooth_l1")
def smooth_l1(case: Case) -> Computed:
    return tl.SmoothL1(delta=case.hp["beta"])(case["pred"], case["target"])


@recipe("regression_vision/embedding_regression_smooth_l1")
def embedding_smooth_l1(case: Case) -> Computed:
    return tl.SmoothL1(delta=case.hp.get("beta", 1.0))(case["pred"], case["target"])


@recipe("contrastive/barlow_twins")
def barlow_twins(case: Case) -> Computed:
    return tl.BarlowTwins(weight=case.hp["lambda_param"])(case["z1"], case["z2"])


@recipe("contrastive/linear_barlow")
def linear_barlow(case: Case) -> Computed:
    hp = case.hp
    loss = tl.BarlowTwins(weight=hp["lambda_"], normalize=hp["normalize"], symmetric=hp["symmetric"])
    return loss(case["z1"], case["z2"])
