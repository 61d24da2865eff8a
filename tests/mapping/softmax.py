"""Cross-entropy and its relatives."""

import torchlosses as tl
from tests.mapping import Case, Computed, recipe


@recipe("classification/cross_entropy", "classification/label_smoothing", "classification/cross_entropy_soft")
def cross_entropy(case: Case) -> Computed:
    return tl.CrossEntropy(label_smoothing=case.hp.get("label_smoothing", 0.0), reduction="none")(
        case["scores"], case["targets"]
    )
