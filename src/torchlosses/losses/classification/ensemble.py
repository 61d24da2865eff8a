"""EnsLoss: a random convex loss for every batch, told by its derivatives alone."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torchlosses.card import Card
from torchlosses.draws import Draws
from torchlosses.hyperparameters import real
from torchlosses.loss import SetLoss


class EnsLoss(Draws, SetLoss):
    r"""EnsLoss: binary classification with derivatives of a random calibrated loss, drawn anew for every batch.

    As many derivatives as rows are drawn, ``-max(z-th inverse Box-Cox transform)`` of standard normals z, at least -1, and
    given out in order: the smallest to the smallest margin ``m = +-s``. So they never fall as margins grow, as those of a
    convex loss. Where m > 1 they are divided by m. The value is ``mean_i g_i m_i``; only its gradient means anything.

    Arguments:
        power: of the inverse Box-Cox transform ``(1 + power z)_+ ^ (1 / power)``, exp(z) at 0; in [-1, 1].
        seed: of the generator.

    Call with scores (B,) and targets (B,), > 0 for the positive class; ``normals`` (B,) takes the place of the draw. The
    paper draws ``power`` again every 10 epochs: :meth:`redraw`.

    >>> import torch, torchlosses as tl
    >>> loss = tl.EnsLoss()
    >>> loss(torch.tensor([2.0, 1.0]), torch.tensor([1, 0]), normals=torch.tensor([-1.0, 0.0]))
    tensor(0.3161)
    """

    card: ClassVar[Card] = Card(
        title="EnsLoss: Stochastic Calibrated Loss Ensembles for Preventing Overfitting in Classification",
        year=2024,
        identifier="arXiv:2409.00908",
        family="classification",
        formula=r"\frac1B\sum_i g_i m_i,\quad g=-\mathrm{BoxCox}^{-1}(z;\lambda)",
        purpose="Binary classification that does not overfit one loss.",
        scores="none",
        aliases=("ensemble loss", "stochastic loss ensemble"),
        cost="O(B log B)",
        detached="the derivatives g",
    )

    power: float = real(0.0, "of the inverse Box-Cox transform", low=-1, high=1)

    drawn_power: Tensor

    def setup(self) -> None:
        self.register_buffer("drawn_power", torch.tensor(self.power, dtype=torch.float64))

    def redraw(self) -> None:
        """Draws the power uniformly from [-1, 1]; kept in ``state_dict``."""
        self.drawn_power.copy_(self.drawn(lambda g: 2 * torch.rand((), generator=g, dtype=torch.float64) - 1))

    def forward(self, scores: Tensor, targets: Tensor, normals: Tensor | None = None) -> Tensor:
        for name, given in (("targets", targets), ("normals", normals)):
            if given is not None and given.numel() != scores.numel():
                raise ValueError(f"{name}: expected {scores.numel()} entries as the scores, got {given.numel()}")
        s = scores.reshape(-1).to(torch.promote_types(scores.dtype, torch.float32))
        if not s.numel():
            return s.sum()
        margin = torch.where(targets.reshape(-1) > 0, s, -s)
        if normals is None:
            normals = self.drawn(lambda g: torch.randn(s.numel(), generator=g), s.device)
        return (self._derivatives(margin.detach(), normals.reshape(-1).to(s)) * margin).mean()

    @torch.no_grad()
    def _derivatives(self, margin: Tensor, normals: Tensor) -> Tensor:
        """The slope (B,) of the drawn loss at each margin, in [-1, 0)."""
        power = self.drawn_power.to(normals)
        base = 1 + power * normals
        inside = torch.where(base > 0, base, 1.0).log() / torch.where(power == 0, 1.0, power)
        edge = torch.where(power > 0, 0.0, torch.inf).to(normals)
        size = torch.where(power == 0, normals.exp(), torch.where(base > 0, inside.exp(), edge))
        slopes = (-size).sort().values.clamp(min=-1)
        found = torch.empty_like(slopes).scatter_(0, margin.argsort(stable=True), slopes)
        return torch.where(margin > 1, found / margin.clamp(min=1), found) - 1e-6  # 1e-6: the released code
