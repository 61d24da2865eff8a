"""Objectives that make a student agree with a teacher."""

from torchlosses.losses.distillation.divergences import ForwardKL, GeneralizedJSD, ReverseKL
from torchlosses.losses.distillation.margins import MarginMSE

__all__ = ["ForwardKL", "GeneralizedJSD", "MarginMSE", "ReverseKL"]
