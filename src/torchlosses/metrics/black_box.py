"""Proper losses of a generator that can only be sampled: unbiased estimates, for evaluation."""

from __future__ import annotations

import torch
from torch import Tensor


def black_box_square_loss(counts: Tensor, targets: Tensor) -> Tensor:
    r"""Unbiased estimate of ``|p|^2 - 2 p_y`` (the Brier score less 1) from draws of the model, (B,).

    The U-statistic: the share of pairs of draws that are equal, less twice the share of draws equal to the target.

    Arguments:
        counts: (B, C) how often each outcome was drawn, at least two draws in each row.
        targets: (B,) what happened.

    "Proper Losses for Discrete Generative Models", 2022.

    >>> import torch
    >>> black_box_square_loss(torch.tensor([[3, 1]]), torch.tensor([0]))
    tensor([-1.])
    """
    _check(counts, targets)
    n = counts.to(torch.get_default_dtype())
    draws = n.sum(-1)
    if bool((draws < 2).any()):
        raise ValueError(f"counts: expected at least two draws in each row, got {int(draws.min())}")
    equal = (n * (n - 1)).sum(-1) / (draws * (draws - 1))
    return equal - 2 * n.gather(1, targets[:, None]).squeeze(1) / draws


def black_box_log_loss(counts: Tensor, targets: Tensor, rate: float) -> Tensor:
    r"""Unbiased estimate of ``-log p_y`` from a Poisson number of draws of the model, (B,).

    With m draws unlike the target, :math:`\sum_{k=1}^m \frac{m(m-1)\cdots(m-k+1)}{k\,\lambda^k}`. Its variance is high and
    grows with m: report it with a standard error, and take a rate well above the number of draws that a target needs.

    Arguments:
        counts: (B, C) how often each outcome was drawn, the number of draws being Poisson(rate).
        targets: (B,) what happened.
        rate: the Poisson mean :math:`\lambda` > 0.

    "Proper Losses for Discrete Generative Models", 2022; the estimator follows from the factorial moments of a Poisson.

    >>> import torch
    >>> black_box_log_loss(torch.tensor([[3, 2]]), torch.tensor([0]), rate=6.0)
    tensor([0.3611], dtype=torch.float64)
    """
    _check(counts, targets)
    if not rate > 0:
        raise ValueError(f"rate: expected a number > 0, got {rate!r}")
    other = (counts.sum(-1) - counts.gather(1, targets[:, None]).squeeze(1)).to(torch.float64)
    k = torch.arange(1, int(other.max()) + 1 if other.numel() else 1, dtype=torch.float64, device=counts.device)
    factors = ((other[:, None] - k + 1).clamp(min=0) / rate).cumprod(-1)  # m (m - 1) ... (m - k + 1) / rate^k
    return (factors / k).sum(-1)


def _check(counts: Tensor, targets: Tensor) -> None:
    if counts.dim() != 2 or counts.dtype.is_floating_point:
        raise ValueError(f"counts: expected integers of shape (B, C), got {counts.dtype} {tuple(counts.shape)}")
    if targets.shape != counts.shape[:1]:
        raise ValueError(f"targets: expected shape ({counts.shape[0]},), got {tuple(targets.shape)}")
