"""Softmax, sigmoid and robust classification objectives."""

from torchlosses.losses.classification.binary import BinaryCrossEntropy, SigmoidFocal, SigmoidLoss
from torchlosses.losses.classification.decision import InfluenceBalanced, IntegratedGain, repulsive_logdet
from torchlosses.losses.classification.distributional import ALDR
from torchlosses.losses.classification.harmonic import Harmonic
from torchlosses.losses.classification.link import (
    LegendreLink,
    LegendreTron,
)
from torchlosses.losses.classification.open_set import ReciprocalPoints
from torchlosses.losses.classification.prior import LogitAdjusted, VectorScaling
from torchlosses.losses.classification.softmax import CrossEntropy, LogPartitionPenalty
from torchlosses.losses.classification.sparsemax import Sparsemax
from torchlosses.losses.classification.target_probability import (
    CompSum,
    Focal,
    GeneralizedCrossEntropy,
    MeanAbsoluteError,
    PolyLoss,
    TargetProbability,
)

__all__ = [
    "ALDR",
    "BinaryCrossEntropy",
    "CompSum",
    "CrossEntropy",
    "Focal",
    "GeneralizedCrossEntropy",
    "LogPartitionPenalty",
    "LogitAdjusted",
    "MeanAbsoluteError",
    "PolyLoss",
    "SigmoidFocal",
    "SigmoidLoss",
    "Sparsemax",
    "TargetProbability",
    "VectorScaling",
    "Harmonic",
    "ReciprocalPoints",
    "InfluenceBalanced",
    "IntegratedGain",
    "repulsive_logdet",
    "LegendreTron",
    "LegendreLink",
]
