"""Softmax on cosines with a margin on the right class: face recognition and long-tailed heads."""

from torchlosses.losses.margin.softmax import (
    LDAM,
    AdaFace,
    ArcFace,
    CombinedMargin,
    CosFace,
    MarginSoftmax,
)

__all__ = ["LDAM", "AdaFace", "ArcFace", "CombinedMargin", "CosFace", "MarginSoftmax"]
