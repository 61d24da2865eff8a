"""Training objectives for PyTorch: every one with the call ``loss(scores, targets)``."""

from torchlosses.card import Card
from torchlosses.engine import Block, Outcome, Summary, memory_budget
from torchlosses.hyperparameters import choice, data, flag, integer, real
from torchlosses.loss import Loss, RowLoss, SetLoss, Wrapper, row_loss
from torchlosses.losses.classification.softmax import CrossEntropy, LogPartitionPenalty
from torchlosses.reductions import CVaR, Mean, Reduction, Sum
from torchlosses.scores import (
    Scores,
    concat,
    cosine,
    dot,
    euclidean,
    implicit_reward,
    linear,
    per_row,
    poincare,
)
from torchlosses.targets import (
    Targets,
    classes,
    desirable,
    graded,
    multi_label,
    paired,
    preferred,
    same_label,
    soft,
    teacher,
)

__version__ = "0.1.0"
