"""What overlap objectives share: from scores and targets to soft masks, and from ratios to one number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, one_hot

from torchlosses.hyperparameters import choice, integer
from torchlosses.lazy import lazy
from torchlosses.loss import SetLoss

LOWEST = -1e30  # stands for -inf where a gradient must stay a number


def log_complement(x: Tensor, dim: int) -> Tensor:
    """log(1 - softmax(x)), exact where a probability rounds to 1."""
    top = x.detach().argmax(dim, keepdim=True)
    is_top = torch.zeros_like(x, dtype=torch.bool).scatter(dim, top, True)
    rest = x.masked_fill(is_top, LOWEST).logsumexp(dim, keepdim=True) - x.logsumexp(dim, keepdim=True)
    return torch.where(is_top, rest, torch.log1p(-torch.where(is_top, 0.0, x.softmax(dim))))


class Probabilities:
    """Probabilities (B, C, P) of scores, with the logarithms of p and of 1 - p, each made when first asked for."""

    def __init__(self, scores: Tensor, activation: str) -> None:
        self._x, self._activation = scores, activation

    @lazy
    def value(self) -> Tensor:
        if self._activation == "none":
            return self._x
        return self._x.softmax(1) if self._activation == "softmax" else self._x.sigmoid()

    @lazy
    def log(self) -> Tensor:
        if self._activation == "none":
            return self._x.clamp(1e-7, 1).log()
        return log_softmax(self._x, 1) if self._activation == "softmax" else logsigmoid(self._x)

    @lazy
    def log_complement(self) -> Tensor:
        if self._activation == "none":
            return (1 - self._x).clamp(1e-7, 1).log()
        return log_complement(self._x, 1) if self._activation == "softmax" else logsigmoid(-self._x)


@dataclass(frozen=True)
class Masks:
    """Predicted and true masks (B, C, P) in at least float32; ``counted`` (B, 1, P) or None: all cells count."""

    soft: Probabilities
    truth: Tensor
    counted: Tensor | None

    def only(self, x: Tensor) -> Tensor:
        """Zero in cells that do not count."""
        return x if self.counted is None else torch.where(self.counted, x, 0.0)


class Overlap(SetLoss):
    """Base of the objectives on soft masks. Call with scores (B, C, *) and integer (B, *) or mask (B, C, *) targets.

    Arguments:
        over: what is summed over before the metric: 'image' (pixels; a number per image and class, averaged over classes,
            then over images), 'class' (the same, averaged over a class's images first), 'batch' (pixels and images; a number
            per class) or 'all' (classes too).
        activation: 'softmax' over the classes, 'sigmoid', or 'none' (probabilities come in).
        absent: classes without target are kept ('keep'), worth 0 ('zero') or left out of the mean ('drop'), and so are
            images in which no class is left.
        ignore_index: integer target of pixels that do not count; nor do those where the argument ``mask`` (B, *) is False.

    The sums and the value are float32 for half-precision scores.
    """

    over: str = choice("image", "what is summed over before the metric", options=("image", "class", "batch", "all"))
    activation: str = choice("softmax", "from scores to probabilities", options=("softmax", "sigmoid", "none"))
    absent: str = choice("keep", "classes without target", options=("keep", "zero", "drop"))
    ignore_index: int | None = integer(None, "target of pixels that do not count", low=-(2**31), optional=True)

    def forward(self, scores: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
        """The value on scores (B, C, *) and integer (B, *) or mask (B, C, *) targets."""
        return self.value(self.masks(scores, targets, mask))

    def value(self, masks: Masks) -> Tensor:
        raise NotImplementedError

    def masks(self, scores: Tensor, targets: Tensor, mask: Tensor | None = None) -> Masks:
        if not scores.dtype.is_floating_point or scores.dim() < 2:
            raise ValueError(f"scores: expected floating point (B, C, *), got {scores.dtype} {tuple(scores.shape)}")
        pixels = (scores.shape[0], *scores.shape[2:])
        indices = targets.dim() == scores.dim() - 1
        if tuple(targets.shape) != (pixels if indices else tuple(scores.shape)) or (
            indices and targets.dtype.is_floating_point
        ):
            raise ValueError(
                f"targets: expected integers {pixels} or masks {tuple(scores.shape)}, got "
                f"{targets.dtype} {tuple(targets.shape)}"
            )
        if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != pixels):
            raise ValueError(f"mask: expected booleans {pixels}, got {mask.dtype} {tuple(mask.shape)}")
        counted = mask
        if indices and self.ignore_index is not None:
            known = targets != self.ignore_index
            counted = known if mask is None else known & mask
            targets = targets.masked_fill(~known, 0)
        x = scores.to(torch.promote_types(scores.dtype, torch.float32))
        x = x.reshape(x.shape[0], x.shape[1], -1)
        if indices:
            self._check_labels(targets, scores.shape[1])
            targets = one_hot(targets.long(), scores.shape[1]).movedim(-1, 1)
        truth = targets.to(x.dtype).reshape(x.shape)
        counted = None if counted is None else counted.reshape(x.shape[0], 1, -1)
        masks = Masks(Probabilities(x, self.activation), truth, counted)
        return Masks(masks.soft, masks.only(truth), counted)

    @staticmethod
    def _check_labels(labels: Tensor, classes: int) -> None:
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():
            bad = (labels < 0) | (labels >= classes)
            if bool(bad.any()):
                raise ValueError(f"targets: expected class indices in [0, {classes}), got {int(labels[bad][0])}")

    def axes(self) -> tuple[int, ...]:
        """The axes of (B, C, P) that are summed over."""
        return {"image": (2,), "class": (2,), "batch": (0, 2), "all": (0, 1, 2)}[self.over]

    def averaged(self, value: Tensor, present: Tensor) -> Tensor:
        """The mean of numbers (B or 1, C or 1) under the one rule for absent classes."""
        if self.absent == "drop":
            inner = 0 if self.over == "class" else 1
            count = present.sum(inner).to(value.dtype)
            means = torch.where(present, value, 0.0).sum(inner) / count.clamp(min=1)
            return means.sum() / (count > 0).sum().clamp(min=1)  # nothing to average: no mean of its own
        if self.absent == "zero":
            value = torch.where(present, value, 0.0)
        return value.sum() / max(value.numel(), 1)
