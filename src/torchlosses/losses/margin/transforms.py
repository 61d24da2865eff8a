"""Ways to make a cosine harder, with finite gradients on the whole of [-1, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

GUARDS = ("linear", "none", "clamp", "easy")


def sine(cosine: Tensor) -> Tensor:
    """``sin(arccos(cosine))``; below the rounding of the cosine itself it is noise, and its gradient 0."""
    square = (1 - cosine) * (1 + cosine)
    return square.clamp(min=torch.finfo(cosine.dtype).eps ** 2).sqrt()


def angle(cosine: Tensor) -> Tensor:
    """``arccos(cosine)`` with a finite gradient at -1 and 1."""
    return torch.atan2(sine(cosine), cosine)


def rotate(cosine: Tensor, by: Tensor | float) -> Tensor:
    """``cos(arccos(cosine) + by)``."""
    if isinstance(by, Tensor):
        return cosine.clamp(-1, 1) * by.cos() - sine(cosine) * by.sin()
    return cosine.clamp(-1, 1) * math.cos(by) - sine(cosine) * math.sin(by)


def guarded(cosine: Tensor, margin: Tensor | float, guard: str) -> Tensor:
    """The cosine rotated by ``margin``, kept decreasing in the angle beyond ``pi - margin`` as the guard says."""
    moved = rotate(cosine, margin)
    if guard == "none":
        return moved
    if guard == "easy":
        return torch.where(cosine > 0, moved, cosine)
    cos, sin = (margin.cos(), margin.sin()) if isinstance(margin, Tensor) else (math.cos(margin), math.sin(margin))
    beyond = cosine <= -cos
    if guard == "clamp":
        return torch.where(beyond, -1.0, moved)
    return torch.where(beyond, cosine - margin * sin, moved)


def multiplied(cosine: Tensor, factor: float) -> Tensor:
    """``(-1)^k cos(factor theta) - 2k`` with ``k = floor(factor theta / pi)``: decreasing in the angle theta."""
    theta = angle(cosine)
    k = (factor * theta.detach() / math.pi).floor()
    return (1 - 2 * (k % 2)) * (factor * theta).cos() - 2 * k
