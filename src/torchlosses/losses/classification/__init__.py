"""Softmax, sigmoid and robust classification objectives."""

from torchlosses.losses.classification.adversarial import SmoothAdversarialCompSum
from torchlosses.losses.classification.bias import BiasLoss
from torchlosses.losses.classification.binary import BinaryCrossEntropy, SigmoidFocal, SigmoidLoss
from torchlosses.losses.classification.confidence import ConfidencePenalty, CorrectnessAware, LogitNorm, RejectionSurrogate
from torchlosses.losses.classification.consistency import AugMix
from torchlosses.losses.classification.decision import InfluenceBalanced, IntegratedGain, repulsive_logdet
from torchlosses.losses.classification.differences import LDR, CrammerSinger, MultiLabelMargin, WestonWatkins
from torchlosses.losses.classification.distributional import ALDR
from torchlosses.losses.classification.ensemble import EnsLoss
from torchlosses.losses.classification.fenchel_young import Entmax, FenchelYoung, Normmax, Sparsemax
from torchlosses.losses.classification.harmonic import Harmonic
from torchlosses.losses.classification.label_sets import ZLPR, TwoWay
from torchlosses.losses.classification.link import (
    LegendreLink,
    LegendreTron,
)
from torchlosses.losses.classification.maps import capped_simplex, entmax, normmax, sparsemax
from torchlosses.losses.classification.normalized import (
    ActivePassive,
    Normalized,
    NormalizedCrossEntropy,
    NormalizedFocal,
    NormalizedGeneralizedCrossEntropy,
    NormalizedMeanAbsoluteError,
)
from torchlosses.losses.classification.open_set import ReciprocalPoints
from torchlosses.losses.classification.prior import LogitAdjusted, VectorScaling
from torchlosses.losses.classification.proper import Brier, RankedProbabilityScore, SparseSoftmax, SphericalScore
from torchlosses.losses.classification.robust import (
    AsymmetricExponential,
    AsymmetricGCE,
    AsymmetricUnhinged,
    JensenShannon,
    PrunedGCE,
    RobustLog,
    SymmetricCrossEntropy,
    TruncatedGCE,
)
from torchlosses.losses.classification.softmax import CrossEntropy, LogPartitionPenalty
from torchlosses.losses.classification.spherical import SphericalSoftmax, TaylorSoftmax, ZLoss
from torchlosses.losses.classification.squared import RescaledSquare, Squentropy
from torchlosses.losses.classification.target_probability import (
    CompSum,
    DirectCoverage,
    Encouraging,
    Focal,
    GeneralizedCrossEntropy,
    MeanAbsoluteError,
    PolyLoss,
    TargetProbability,
)
from torchlosses.losses.classification.tempered import BiTempered

__all__ = [
    "AugMix",
    "CrammerSinger",
    "LDR",
    "MultiLabelMargin",
    "WestonWatkins",
    "Entmax",
    "FenchelYoung",
    "Normmax",
    "ZLPR",
    "TwoWay",
    "capped_simplex",
    "entmax",
    "normmax",
    "sparsemax",
    "Brier",
    "RankedProbabilityScore",
    "SparseSoftmax",
    "SphericalScore",
    "SphericalSoftmax",
    "TaylorSoftmax",
    "ZLoss",
    "ActivePassive",
    "AsymmetricExponential",
    "AsymmetricGCE",
    "AsymmetricUnhinged",
    "BiTempered",
    "BiasLoss",
    "ConfidencePenalty",
    "CorrectnessAware",
    "DirectCoverage",
    "Encouraging",
    "EnsLoss",
    "JensenShannon",
    "LogitNorm",
    "Normalized",
    "NormalizedCrossEntropy",
    "NormalizedFocal",
    "NormalizedGeneralizedCrossEntropy",
    "NormalizedMeanAbsoluteError",
    "PrunedGCE",
    "RejectionSurrogate",
    "RescaledSquare",
    "RobustLog",
    "SmoothAdversarialCompSum",
    "Squentropy",
    "SymmetricCrossEntropy",
    "TruncatedGCE",
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
