"""Objectives on preferences: what a policy should find likelier than its reference does."""

from torchlosses.losses.preference.pairwise import DPO, GPO, IPO, ORPO, SLiC
from torchlosses.losses.preference.unpaired import KTO

__all__ = ["DPO", "GPO", "IPO", "KTO", "ORPO", "SLiC"]
