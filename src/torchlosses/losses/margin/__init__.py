"""Softmax on cosines with a margin on the right class: face recognition and long-tailed heads."""

from torchlosses.losses.margin.adaptive import AdaCos, MadaCos
from torchlosses.losses.margin.angular import ArcFace, CombinedMargin, CosFace
from torchlosses.losses.margin.curriculum import CurricularFace
from torchlosses.losses.margin.elastic import ElasticFace
from torchlosses.losses.margin.frequency import LDAM
from torchlosses.losses.margin.multiplied import LargeMarginSoftmax, SphereFace, SphereFaceR
from torchlosses.losses.margin.one_vs_all import OneVsAll, SphereFace2, UniFace
from torchlosses.losses.margin.quality import AdaFace, MagFace
from torchlosses.losses.margin.regularizers import NegativeBlockContrast, OrthogonalProjection
from torchlosses.losses.margin.softmax import MarginSoftmax
from torchlosses.losses.margin.subcenters import SubCenterArcFace, SubCenters
from torchlosses.losses.margin.unified import UNPG

__all__ = [
    "LDAM",
    "UNPG",
    "AdaCos",
    "AdaFace",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "ElasticFace",
    "LargeMarginSoftmax",
    "MadaCos",
    "MagFace",
    "MarginSoftmax",
    "NegativeBlockContrast",
    "OneVsAll",
    "OrthogonalProjection",
    "SphereFace",
    "SphereFace2",
    "SphereFaceR",
    "SubCenterArcFace",
    "SubCenters",
    "UniFace",
]
