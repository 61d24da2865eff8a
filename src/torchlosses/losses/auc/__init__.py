"""Objectives on the area under the ROC curve, parts of it, and average precision."""

from torchlosses.losses.auc.margin import AUCMargin
from torchlosses.losses.auc.pairwise import MacroAUC, PairwiseAUC
from torchlosses.losses.auc.partial import AveragePrecision, PartialAUC

__all__ = ["AUCMargin", "AveragePrecision", "MacroAUC", "PairwiseAUC", "PartialAUC"]
