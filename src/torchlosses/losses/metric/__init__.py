"""Metric learning: objectives on pairs, triplets and whole rows of similarities."""

from torchlosses.losses.metric.pairs import Contrastive
from torchlosses.losses.metric.similarity import Circle, MultiSimilarity
from torchlosses.losses.metric.triplet import TripletMargin

__all__ = ["Circle", "Contrastive", "MultiSimilarity", "TripletMargin"]
