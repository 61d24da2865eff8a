"""Any metric of the confusion matrix as an objective."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.hyperparameters import choice, real
from torchlosses.losses.overlap.confusion import METRICS, Confusion, soft_confusion
from torchlosses.losses.overlap.masks import Masks, Overlap, Probabilities


class AnyLoss(Overlap):
    r"""One minus a metric of the confusion matrix whose counts are sharpened probabilities.

    .. math:: 1-\mathrm{metric}(TP,FP,FN,TN),\quad a=\sigma(L(p-\tfrac12)),\ TP=\sum aY,\ FP=\sum a(1-Y),\dots

    Arguments:
        metric: 'accuracy', 'fbeta', 'gmean' (root of the product of both rates), 'balanced_accuracy', 'mcc', 'jaccard'.
        slope: L > 0, or None: a = p. At the paper's 73 a(0) is 1e-16, nearly a hard threshold: gradients away from p = 1/2
            vanish, more so in float32; 10 to 30 train more easily.
        beta: of 'fbeta', > 0.
        smooth: added to each of the four counts, >= 0.
        over: 'batch' (one metric per column, averaged over columns), 'image', 'class' or 'all', as in Dice.

    Call with scores (B,), (B, L) or (B, L, *) and targets of the same shape in [0, 1]. A kind of example that does not
    occur has rate 1 in 'gmean' and is left out of 'balanced_accuracy'; other ratios 0/0 are 0. For another metric override
    :meth:`score`.

    >>> import torch, torchlosses as tl
    >>> scores, targets = torch.tensor([3.0, 1.0, -2.0, -4.0]), torch.tensor([1, 0, 0, 1])
    >>> tl.AnyLoss(metric="accuracy", slope=10.0)(scores, targets)
    tensor(0.4835)
    """

    card: ClassVar[Card] = Card(
        title="AnyLoss: Transforming Classification Metrics into Loss Functions",
        year=2024,
        identifier="arXiv:2405.14745",
        family="overlap",
        formula=r"1-\mathrm{metric}(TP,FP,FN,TN),\ a=\sigma(L(\sigma(s)-1/2))",
        purpose="Optimise F1, G-mean, balanced accuracy or any other confusion-matrix metric on imbalanced data.",
        scores="none",
        aliases=("ALF", "SoftF1", "soft G-mean"),
        cost="O(N)",
        over="columns (one number)",
        note="the root of 'gmean' and 'mcc' continues linearly below eps^2",
    )

    metric: str = choice("fbeta", "metric of the confusion matrix", options=tuple(METRICS))
    slope: float | None = real(73.0, "slope of the sharpening sigmoid", above=0, optional=True, search=(5.0, 75.0))
    beta: float = real(1.0, "beta of fbeta", above=0)
    smooth: float = real(0.0, "added to each count", low=0)
    over: str = choice("batch", "what is summed over before the metric", options=("image", "class", "batch", "all"))
    activation: str = choice("sigmoid", "from scores to probabilities", options=("sigmoid", "none"))

    def masks(self, scores: Tensor, targets: Tensor, mask: Tensor | None = None) -> Masks:
        if scores.dim() == 1 and targets.shape == scores.shape:
            scores, targets = scores[:, None], targets[:, None]
        return super().masks(scores, targets, mask)

    def confusion(self, scores: Tensor, targets: Tensor, mask: Tensor | None = None) -> Confusion:
        """The four soft counts, with size 1 in the axes that were summed over."""
        return self._confusion(self.masks(scores, targets, mask))

    def _confusion(self, masks: Masks) -> Confusion:
        soft = masks.soft
        if self.slope is not None:
            soft = Probabilities(self.slope * (soft.value - 0.5), "sigmoid")
        return soft_confusion(masks.only(soft.value), masks.truth, self.axes(), counted=masks.counted) + self.smooth

    def score(self, counts: Confusion) -> Tensor:
        """The metric of the counts, larger is better; of their shape."""
        return METRICS[self.metric](counts, self.beta)

    def value(self, masks: Masks) -> Tensor:
        value = 1 - self.score(self._confusion(masks))
        present = masks.truth.sum(self.axes(), keepdim=True) > 0
        return self.averaged(value.squeeze(2), present.squeeze(2))

    def predict(self, scores: Tensor) -> Tensor:
        """Probabilities; above 1/2 is positive."""
        return scores.sigmoid() if self.activation == "sigmoid" else torch.as_tensor(scores)


class MatthewsCorrelation(AnyLoss):
    r"""One minus the Matthews correlation coefficient of probabilities, over the whole batch.

    .. math:: 1-\frac{TP\,TN-FP\,FN}{\sqrt{(TP+FP)(TP+FN)(TN+FP)(TN+FN)}}

    Arguments:
        smooth: added to each of the four counts, >= 0.
        others: as AnyLoss, of which this is metric='mcc' without sharpening.

    >>> import torch, torchlosses as tl
    >>> tl.MatthewsCorrelation(activation="none")(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1, 0, 0]))
    tensor(0.5000)
    """

    card: ClassVar[Card] = Card(
        title="Matthews Correlation Coefficient Loss for Deep Convolutional Networks: Application to Skin Lesion "
        "Segmentation",
        year=2021,
        identifier="arXiv:2010.13454",
        family="overlap",
        formula=r"1-\frac{TP\,TN-FP\,FN}{\sqrt{(TP+FP)(TP+FN)(TN+FP)(TN+FN)}}",
        purpose="Binary segmentation in which the background counts as well.",
        scores="none",
        aliases=("MCCLoss", "MCC", "phi coefficient"),
        cost="O(N)",
        over="the batch (one number)",
        equals=("AnyLoss(metric='mcc', slope=None, over='all')",),
    )

    metric = "mcc"
    slope = None
    smooth = 1e-5
    over = "all"
