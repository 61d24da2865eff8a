"""Objectives on real numbers."""

from torchlosses.losses.regression.robust import Huber, SmoothL1

__all__ = ["Huber", "SmoothL1"]
