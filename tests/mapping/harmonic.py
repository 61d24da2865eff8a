"""Harmonic loss on every distance, with the small numbers of public code and without."""

import torchlosses as tl
from tests.mapping import Case, Computed, recipe

PUBLIC_EPS = {
    "manhattan": 1e-4,
    "cosine": 1e-4,
    "minkowski": 1e-4,
    "canberra": 1e-8,
    "bray_curtis_abs": 1e-3,
    "bray_curtis_standard": 1e-3,
    "mahalanobis_diagonal": 1e-6,
}
NAMES = {
    "bray_curtis_abs": "bray_curtis",
    "bray_curtis_standard": "bray_curtis_signed",
    "mahalanobis_diagonal": "mahalanobis",
}


@recipe(
    "classification/harmonic_grow",
    "classification/harmonic_grow_on_center",
    *(f"classification/harmonic_{metric}" for metric in PUBLIC_EPS),
    *(
        f"classification/harmonic_{metric}_own"
        for metric in ("euclidean", "manhattan", "cosine", "canberra", "bray_curtis", "chebyshev")
    ),
)
def harmonic(case: Case) -> Computed:
    metric = case.hp.get("metric", "euclidean")
    eps = case.hp.get("eps", case.hp.get("eps_sq", PUBLIC_EPS.get(metric, 0.0)))
    scores = tl.distance(case["features"], case["weight"], NAMES.get(metric, metric), p=case.hp.get("p", 1.5), eps=eps)
    return tl.Harmonic(exponent=case.hp["n"], reduction="none")(scores, case["targets"])
