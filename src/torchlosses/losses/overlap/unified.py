"""The asymmetric focal and focal Tversky losses, and their mixture."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.hyperparameters import choice, real
from torchlosses.losses.overlap.confusion import power, soft_confusion, tversky
from torchlosses.losses.overlap.masks import Masks, Overlap


class UnifiedFocal(Overlap):
    r"""Asymmetric unified focal loss: :math:`\lambda` focal :math:`+(1-\lambda)` focal Tversky, class 0 the background.

    Focal: the mean over pixels and classes of :math:`-(1-\delta)(1-p_0)^\gamma t_0\log p_0` (background) and
    :math:`-\delta t_c\log p_c`. Focal Tversky: the mean over images and classes of :math:`1-TI_0` (background) and
    :math:`(1-TI_c)^{1-\gamma}`, :math:`TI=\frac{TP+\epsilon}{TP+\delta FN+(1-\delta)FP+\epsilon}`.

    Arguments:
        weight: lambda in [0, 1]: 1 is the asymmetric focal loss, 0 the asymmetric focal Tversky loss.
        delta: weight of the foreground, in [0, 1].
        gamma: suppresses the background's easy pixels and enhances rare classes, in [0, 1) where weight < 1.
        activation: 'softmax' or 'none' (probabilities come in).

    Call with scores (B, C, *), C >= 2, and integer (B, *) or mask (B, C, *) targets.

    >>> import torch, torchlosses as tl
    >>> tl.UnifiedFocal(activation="none")(torch.tensor([[[0.9, 0.2], [0.1, 0.8]]]), torch.tensor([[0, 1]]))
    tensor(0.1541)
    """

    card: ClassVar[Card] = Card(
        title="Unified Focal loss: Generalising Dice and cross entropy-based losses to handle class imbalanced medical "
        "image segmentation",
        year=2022,
        identifier="arXiv:2102.04525",
        family="overlap",
        formula=r"\lambda L_{\mathrm{aF}}+(1-\lambda)L_{\mathrm{aFT}}",
        purpose="Segment rare foreground: focal loss and focal Tversky loss with one set of hyperparameters.",
        scores="none",
        aliases=(
            "AsymmetricUnifiedFocalLoss",
            "AsymmetricFocalLoss",
            "AsymmetricFocalTverskyLoss",
            "AsymmetricFocal",
            "AsymmetricFocalTversky",
            "unified focal loss",
        ),
        cost="O(N)",
        over="pixels and classes (focal), images and classes (Tversky)",
        equals=("asymmetric focal: weight=1", "asymmetric focal Tversky: weight=0"),
        note="powers below 1 continue linearly where 1 - TI is below eps^2",
    )

    activation: str = choice("softmax", "from scores to probabilities", options=("softmax", "none"))
    weight: float = real(0.5, "share of the focal part", low=0, high=1, search=(0.0, 1.0))
    delta: float = real(0.6, "weight of the foreground", low=0, high=1, search=(0.5, 0.9))
    gamma: float = real(0.5, "focusing", low=0, search=(0.1, 0.9))
    over: str = choice("image", "what the Tversky counts are summed over", options=("image", "batch"))
    absent: str = choice("keep", "classes without target", options=("keep",))

    def setup(self) -> None:
        if self.weight < 1 and self.gamma >= 1:
            raise ValueError(f"gamma: expected a number in [0, 1) where weight < 1, got {self.gamma!r}")

    def value(self, masks: Masks) -> Tensor:
        if masks.truth.shape[1] < 2:
            raise ValueError(f"scores: expected at least 2 classes, got {masks.truth.shape[1]}")
        total = masks.truth.new_zeros(())
        if self.weight:
            total = total + self.weight * self._focal(masks)
        if self.weight < 1:
            total = total + (1 - self.weight) * self._tversky(masks)
        return total

    def _focal(self, masks: Masks) -> Tensor:
        soft = masks.soft
        entropy = -masks.truth * soft.log
        back = (1 - self.delta) * entropy[:, :1]
        if self.gamma:
            back = back * (self.gamma * soft.log_complement[:, :1]).exp()
        value = torch.cat([back, self.delta * entropy[:, 1:]], 1)
        cells = value.numel() if masks.counted is None else masks.counted.sum().to(value.dtype) * value.shape[1]
        return masks.only(value).sum() / torch.as_tensor(cells, device=value.device).clamp(min=1)

    def _tversky(self, masks: Masks) -> Tensor:
        c = soft_confusion(masks.only(masks.soft.value), masks.truth, self.axes())
        rest = (1 - tversky(c, 1 - self.delta, self.delta, 2e-7)).squeeze(2)
        value = torch.cat([rest[:, :1], power(rest[:, 1:], 1 - self.gamma)], 1)
        return value.sum() / max(value.numel(), 1)
