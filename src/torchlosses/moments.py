"""Counts, means and squared deviations of classes, merged batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassMoments(nn.Module):
    """Running moments of labelled features, in buffers of the first batch's precision (at least float32).

    Arguments:
        features, classes: D and C.
        full: one scatter matrix (D, D) pooled over the classes; otherwise squared deviations (C, D) of each class.
    """

    count: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, features: int, classes: int, full: bool = False) -> None:
        super().__init__()
        if features < 1 or classes < 1:
            raise ValueError(f"features, classes: expected integers >= 1, got {features!r}, {classes!r}")
        self.full = full
        self.register_buffer("count", torch.zeros(classes))
        self.register_buffer("mean", torch.zeros(classes, features))
        self.register_buffer("spread", torch.zeros(features if full else classes, features))

    def clear(self) -> None:
        """Forgets everything."""
        for buffer in (self.count, self.mean, self.spread):
            buffer.zero_()

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor) -> None:
        """Merges examples (n, D) with class indices (n,)."""
        classes, width = self.mean.shape
        if features.dim() != 2 or features.shape[1] != width or not features.dtype.is_floating_point:
            raise ValueError(f"features: expected floating point (n, {width}), got {features.dtype} {tuple(features.shape)}")
        if labels.shape != features.shape[:1] or labels.dtype.is_floating_point:
            raise ValueError(f"labels: expected {features.shape[0]} class indices, got {labels.dtype} {tuple(labels.shape)}")
        if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
            raise ValueError(f"labels: expected class indices in [0, {classes}), got {labels.min()} to {labels.max()}")
        wide = torch.promote_types(torch.promote_types(features.dtype, self.mean.dtype), torch.float32)
        x = features.detach().to(wide)
        count, mean, spread = (t.to(x.device, wide) for t in (self.count, self.mean, self.spread))
        new = torch.zeros_like(count).index_add_(0, labels, torch.ones_like(x[:, 0]))
        new_mean = torch.zeros_like(mean).index_add_(0, labels, x) / new.clamp(min=1)[:, None]
        centred = x - new_mean[labels]
        total = count + new
        shift = new_mean - mean
        weight = count * new / total.clamp(min=1)  # of the squared distance between old and new means
        if self.full:
            spread = spread + centred.T @ centred + (shift * weight[:, None]).T @ shift
        else:
            spread = spread + torch.zeros_like(spread).index_add_(0, labels, centred.square())
            spread = spread + shift.square() * weight[:, None]
        self.count, self.spread = total, spread
        self.mean = mean + shift * (new / total.clamp(min=1))[:, None]
