"""Objectives on a batch of representations."""

from torchlosses.losses.representation.redundancy import BarlowTwins

__all__ = ["BarlowTwins"]
