"""Margins drawn at random for every row: ElasticFace."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.draws import Draws
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.hyperparameters import choice, flag, real
from torchlosses.losses.margin.softmax import MarginSoftmax
from torchlosses.losses.margin.transforms import rotate


class ElasticFace(Draws, MarginSoftmax):
    r"""ElasticFace: every row draws its own margin from a normal distribution, at every call.

    Arguments:
        form: 'angle' (``cos(theta_y + m_i)``, ElasticFace-Arc) or 'cosine' (``cos theta_y - m_i``, ElasticFace-Cos).
        margin: mean of the margins, >= 0; the paper's is 0.5 for angles and 0.35 for cosines.
        sigma: their standard deviation, >= 0.
        plus: rows get the margins in order, the larger the smaller the row's right cosine (ElasticFace+).
        scale: factor on all cosines, > 0.
        seed: of the generator; None takes torch's default seed.

    Nothing happens beyond ``theta + m = pi``. Margins of one's own: ``targets.given(row_margin=m)``, (B,).

    >>> import torch, torchlosses as tl
    >>> cosines, y = torch.tensor([[0.8, 0.1]]), tl.classes(torch.tensor([0]))
    >>> tl.ElasticFace(scale=10.0)(cosines, y.given(row_margin=torch.tensor([0.5])))
    tensor(0.0422)
    """

    card: ClassVar[Card] = Card(
        title="ElasticFace: Elastic Margin Loss for Deep Face Recognition",
        year=2022,
        identifier="arXiv:2109.09416",
        family="margin",
        formula=r"-\log\frac{e^{s\cos(\theta_y+m_i)}}{e^{s\cos(\theta_y+m_i)}+\sum_{j\ne y}e^{s\cos\theta_j}},"
        r"\quad m_i\sim\mathcal N(m,\sigma^2)",
        purpose="Face recognition where one fixed margin does not fit all classes.",
        tasks=("classification", "retrieval"),
        scores="cosine",
        aliases=("ElasticArcFace", "ElasticCosFace", "ElasticFace-Arc", "ElasticFace-Cos", "ElasticFace+"),
        equals=("ArcFace(guard='none') at sigma=0", "CosFace at form='cosine', sigma=0"),
        note="plus ranks rows by their cosine; the released code indexes the sorted margins by a permutation instead.",
    )

    form: str = choice("angle", "what the margin is added to", options=("angle", "cosine"), search=("angle", "cosine"))
    margin: float = real(0.5, "mean of the margins", low=0, search=(0.2, 0.6))
    sigma: float = real(0.05, "standard deviation of the margins", low=0, search=(0.0125, 0.1, "log"))
    plus: bool = flag(False, "larger margins for smaller cosines")

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        margin = fields.get("row_margin")
        if margin is None:
            noise = self.drawn(lambda g: torch.randn(batch.rows, generator=g), batch.device)
            margin = self.margin + self.sigma * noise.to(batch.dtype)
        if self.plus:
            # ignored rows stand last on both sides, so that counted rows share out their own margins
            ignored = ~batch.targets.counted
            order = batch.right().masked_fill(ignored, -torch.inf).argsort(descending=True, stable=True)
            ranked = margin.masked_fill(ignored, torch.inf).sort().values
            margin = torch.zeros_like(margin).scatter(0, order, ranked).masked_fill(ignored, 0.0)
        return {"row_margin": margin}

    def transform(self, cosine: Tensor, targets: Block, *, row_margin: Tensor, **fields: Any) -> Tensor:
        margin = row_margin.to(cosine.dtype)
        return rotate(cosine, margin) if self.form == "angle" else cosine - margin


__all__ = ["ElasticFace"]
