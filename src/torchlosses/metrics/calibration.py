"""Whether confidence is accuracy."""

from __future__ import annotations

import torch
from torch import Tensor

from torchlosses.scores import Scores, as_scores

NORMS = ("l1", "l2", "max")


def calibration_error(
    scores: Scores | Tensor, targets: Tensor, bins: int = 15, norm: str = "l1", *, probabilities: bool = False
) -> Tensor:
    r"""Expected calibration error of the top label, with bins of equal width in confidence.

    With bin b holding the rows of confidence in :math:`((b-1)/n, b/n]`, its share :math:`w_b` of the rows and its gap
    :math:`g_b` between accuracy and mean confidence: 'l1' :math:`\sum_b w_b g_b`, 'l2' :math:`\sqrt{\sum_b w_b g_b^2}`,
    'max' :math:`\max_b g_b`; empty bins do not count.

    Arguments:
        scores: (B, C) scores, whose softmax is taken.
        targets: (B,) class indices.
        bins: at least 1.
        norm: 'l1', 'l2' or 'max'.
        probabilities: the scores are probabilities already.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, arXiv:1706.04599.

    >>> import torch
    >>> calibration_error(torch.tensor([[0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 1]), probabilities=True)
    tensor(0.3000)
    """
    if norm not in NORMS:
        raise ValueError(f"norm: expected one of 'l1', 'l2', 'max', got {norm!r}")
    if bins < 1:
        raise ValueError(f"bins: expected an integer >= 1, got {bins!r}")
    found = as_scores(scores).tensor().detach()
    if found.dim() != 2 or targets.shape != found.shape[:1] or not found.numel():
        raise ValueError(f"targets: expected one class index for each row of (B, C) scores, got {tuple(targets.shape)}")
    top = (found if probabilities else found.softmax(-1)).max(-1)
    confidence = top.values
    right = (top.indices == targets).to(confidence.dtype)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    place = torch.bucketize(confidence, edges[1:-1].contiguous())
    total = confidence.new_zeros(bins).index_add(0, place, torch.ones_like(confidence))
    gap = confidence.new_zeros(bins).index_add(0, place, right - confidence).abs() / total.clamp(min=1)
    if norm == "max":
        return gap.max()
    share = total / total.sum()
    return (share * gap).sum() if norm == "l1" else (share * gap.square()).sum().sqrt()
