"""In-batch contrastive objectives: InfoNCE and its relatives."""

from torchlosses.losses.contrastive.infonce import InfoNCE, JointInfoNCE, SymmetricInfoNCE
from torchlosses.losses.contrastive.siglip import SigLIP
from torchlosses.losses.contrastive.supcon import SupCon

__all__ = ["InfoNCE", "JointInfoNCE", "SigLIP", "SupCon", "SymmetricInfoNCE"]
