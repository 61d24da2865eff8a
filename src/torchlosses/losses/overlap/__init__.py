"""Objectives on the overlap of soft masks and on the confusion matrix."""

from torchlosses.losses.overlap.confusion import Confusion, soft_confusion
from torchlosses.losses.overlap.dice import Dice, GeneralizedDice, JaccardMetric
from torchlosses.losses.overlap.lovasz import LovaszHinge, LovaszSoftmax
from torchlosses.losses.overlap.metrics import AnyLoss, MatthewsCorrelation
from torchlosses.losses.overlap.self_adjusting import SelfAdjustingDice
from torchlosses.losses.overlap.unified import UnifiedFocal

__all__ = [
    "AnyLoss",
    "Confusion",
    "Dice",
    "GeneralizedDice",
    "JaccardMetric",
    "LovaszHinge",
    "LovaszSoftmax",
    "MatthewsCorrelation",
    "SelfAdjustingDice",
    "UnifiedFocal",
    "soft_confusion",
]
