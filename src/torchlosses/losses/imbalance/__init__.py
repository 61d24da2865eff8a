"""Long-tailed and multi-label classification: reweighted, asymmetric and shifted objectives, very many labels."""

from torchlosses.losses.imbalance.asymmetric import (
    AsymmetricMultiLabel,
    AsymmetricSingleLabel,
    Hill,
    MultiFocalModifier,
    PartialAsymmetric,
    recovered_labels,
)
from torchlosses.losses.imbalance.extreme import (
    DecoupledSoftmax,
    HingeContrastive,
    ProbContrastive,
    SoftTopK,
    TripletOHNM,
    soft_top_k,
)
from torchlosses.losses.imbalance.rebalanced import (
    ClassBalanced,
    DistributionBalanced,
    Equalization,
    EqualizationV2,
    SigmoidLDAM,
    SigmoidVectorScaling,
    effective_number,
    label_weights,
)
from torchlosses.losses.imbalance.shifts import MemorizationAware, Seesaw
from torchlosses.losses.imbalance.subclass import ClassSpecificHingeEmbedding, ReLUSupCon, SubclassBalancedContrastive

__all__ = [
    "AsymmetricMultiLabel",
    "AsymmetricSingleLabel",
    "ClassBalanced",
    "ClassSpecificHingeEmbedding",
    "DecoupledSoftmax",
    "DistributionBalanced",
    "Equalization",
    "EqualizationV2",
    "Hill",
    "HingeContrastive",
    "MemorizationAware",
    "MultiFocalModifier",
    "PartialAsymmetric",
    "ProbContrastive",
    "ReLUSupCon",
    "Seesaw",
    "SigmoidLDAM",
    "SigmoidVectorScaling",
    "SoftTopK",
    "SubclassBalancedContrastive",
    "TripletOHNM",
    "effective_number",
    "label_weights",
    "recovered_labels",
    "soft_top_k",
]
