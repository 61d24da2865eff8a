"""Training objectives for PyTorch: every one with the call ``loss(scores, targets)``."""

from torchlosses.card import Card
from torchlosses.engine import Block, Outcome, Summary, memory_budget
from torchlosses.hyperparameters import choice, data, flag, integer, real, reals
from torchlosses.loss import Loss, RowLoss, SetLoss, Wrapper, row_loss
from torchlosses.losses.classification import (
    ALDR,
    BinaryCrossEntropy,
    CompSum,
    CrossEntropy,
    Focal,
    GeneralizedCrossEntropy,
    LogitAdjusted,
    LogPartitionPenalty,
    MeanAbsoluteError,
    PolyLoss,
    SigmoidFocal,
    SigmoidLoss,
    Sparsemax,
    TargetProbability,
    VectorScaling,
)
from torchlosses.losses.contrastive import InfoNCE, JointInfoNCE, SigLIP, SupCon, SymmetricInfoNCE
from torchlosses.losses.distillation import ForwardKL, GeneralizedJSD, MarginMSE, ReverseKL
from torchlosses.losses.margin import LDAM, AdaFace, ArcFace, CombinedMargin, CosFace, MarginSoftmax
from torchlosses.losses.metric import Circle, Contrastive, MultiSimilarity, TripletMargin
from torchlosses.losses.overlap import Dice
from torchlosses.losses.preference import DPO, GPO, IPO, KTO, ORPO, SLiC
from torchlosses.losses.ranking import (
    BPR,
    LambdaLoss,
    LambdaRank,
    ListMLE,
    ListNet,
    PairwiseLoss,
    PListMLE,
    RankNet,
)
from torchlosses.losses.regression import Huber, SmoothL1
from torchlosses.losses.representation import BarlowTwins
from torchlosses.losses.symmetric import Symmetric
from torchlosses.mining import GuidedFilter, HardNegatives, Miner
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
