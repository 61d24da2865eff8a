"""How well scores separate the examples that carry a label from those that do not."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def label_auc(scores: Tensor, targets: Tensor, ties: float = 0.5) -> Tensor:
    """Area under the ROC curve of every label (L,); NaN for a label that all examples carry, or none.

    Arguments:
        scores: (N, L), or (N,) of one label.
        targets: of that shape; above 0 is positive.
        ties: what a positive counts against a negative of the same score, in [0, 1].

    Macro-AUC is the ``nanmean()``. The authors of macro-AUC in "Towards Understanding Generalization of Macro-AUC in
    Multi-label Learning" (2023, arXiv:2305.05248) count ties as right and divide by all labels:
    ``label_auc(scores, targets, ties=1.0).nan_to_num(0).mean()``. O(N L log N).

    >>> import torch
    >>> from torchlosses.metrics import label_auc
    >>> label_auc(torch.tensor([3.0, 1.0, 2.0, 1.0]), torch.tensor([1, 1, 0, 0]))
    tensor([0.6250])
    """
    if scores.shape != targets.shape or scores.dim() not in (1, 2):
        raise ValueError(
            f"targets: expected scores and targets (N,) or (N, L), got {tuple(scores.shape)}, {tuple(targets.shape)}"
        )
    if not 0 <= ties <= 1:
        raise ValueError(f"ties: expected a number in [0, 1], got {ties!r}")
    s, positive = scores.reshape(len(scores), -1).T.contiguous(), targets.reshape(len(scores), -1).T > 0
    negatives = s.masked_fill(positive, torch.inf).sort(-1).values
    number = (~positive).sum(-1, keepdim=True)
    below = torch.searchsorted(negatives, s)
    level = torch.searchsorted(negatives, s, right=True).minimum(number) - below.minimum(number)
    won = torch.where(positive, below.minimum(number) + ties * level, 0.0).sum(-1)
    return won / (positive.sum(-1) * number.squeeze(-1))


__all__ = ["label_auc"]
