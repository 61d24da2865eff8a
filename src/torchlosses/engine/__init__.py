"""Evaluation of row rules on scores: dense, blocked, recomputing, streaming. Knows nothing of any particular loss."""

from torchlosses.engine.block import Block
from torchlosses.engine.budget import memory_budget
from torchlosses.engine.outcome import Outcome, Summary

__all__ = ["Block", "Outcome", "Summary", "memory_budget"]
