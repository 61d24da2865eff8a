"""Objectives on the overlap of soft masks."""

from torchlosses.losses.overlap.dice import Dice

__all__ = ["Dice"]
