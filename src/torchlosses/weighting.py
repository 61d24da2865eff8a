"""Weights of examples that need nothing of their scores."""

from __future__ import annotations

from torch import Tensor


def likelihood_weight(likelihood: Tensor, eta: float = 1.0, gamma: float = 5.0) -> Tensor:
    """Weights ``(eta + (1 - p)^gamma) / (eta + 1)`` of examples by how common they are: rare ones count more.

    Arguments:
        likelihood: (B,) p in [0, 1], the share of the data set that looks like the example (its cluster's size).
        eta: how much common examples keep, >= 0; 0 gives ``(1 - p)^gamma``.
        gamma: >= 0.

    The weights lie in [eta / (eta + 1), 1] and multiply the rows' values without being divided out again:
    ``(likelihood_weight(p) * loss(scores, targets)).mean()`` with ``reduction='none'``.

    "DatasetEquity: Are All Samples Created Equal?", 2023, arXiv:2308.09878 (there "generalized focal loss").

    >>> import torch, torchlosses as tl
    >>> tl.likelihood_weight(torch.tensor([0.0, 1.0]))
    tensor([1.0000, 0.5000])
    """
    for name, value in (("eta", eta), ("gamma", gamma)):
        if not value >= 0:
            raise ValueError(f"{name}: expected a number >= 0, got {value!r}")
    if likelihood.device.type == "cpu" and bool(((likelihood < 0) | (likelihood > 1)).any()):
        raise ValueError("likelihood: expected numbers in [0, 1]")
    return (eta + (1 - likelihood) ** gamma) / (eta + 1)
