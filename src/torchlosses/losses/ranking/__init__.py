"""Objectives on lists: pairs, list likelihoods."""

from torchlosses.losses.ranking.lists import ListMLE, ListNet, PListMLE
from torchlosses.losses.ranking.pairs import BPR, LambdaLoss, LambdaRank, PairwiseLoss, RankNet

__all__ = ["BPR", "LambdaLoss", "LambdaRank", "ListMLE", "ListNet", "PListMLE", "PairwiseLoss", "RankNet"]
