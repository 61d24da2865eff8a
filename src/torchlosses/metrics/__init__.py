"""What judges a model: confidence, calibration, long tails, samples of a generator."""

from torchlosses.metrics.auc import label_auc
from torchlosses.metrics.black_box import black_box_log_loss, black_box_square_loss
from torchlosses.metrics.calibration import calibration_error
from torchlosses.metrics.confidence import energy, max_logit, max_softmax
from torchlosses.metrics.decisions import expected_utility, false_head_rate, tail_sensitive_utility
from torchlosses.metrics.geometry import orthogonal_frame_distance
from torchlosses.metrics.mahalanobis import MahalanobisScore, perturbed

__all__ = [
    "MahalanobisScore",
    "black_box_log_loss",
    "black_box_square_loss",
    "calibration_error",
    "energy",
    "expected_utility",
    "false_head_rate",
    "label_auc",
    "max_logit",
    "max_softmax",
    "orthogonal_frame_distance",
    "perturbed",
    "tail_sensitive_utility",
]
