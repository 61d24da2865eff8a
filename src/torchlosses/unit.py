"""Rows at unit Euclidean length, without leaving anything of the operand's size behind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LEAST = 1e-12  # shorter rows have no direction: they become ~0 and take no gradient
LEAN = 1 << 20  # operands of more entries are normalized by the function below


def unit(x: Tensor, scale: float = 1.0) -> Tensor:
    """``scale * x / |x|`` for every row; norms are clamped at 1e-12, a zero row stays zero with gradient 0."""
    if x.numel() < LEAN or torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return _plain(x, scale)
    made: Tensor = _Unit.apply(x, scale)  # type: ignore[no-untyped-call]
    return made


def _inverse(x: Tensor) -> Tensor:
    """1 / |x| (n, 1), with the clamp."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return 1 / norm.clamp_min(LEAST)


def _plain(x: Tensor, scale: float) -> Tensor:
    short = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True) <= LEAST
    made = torch.where(short, x.detach() / LEAST, x * _inverse(torch.where(short, 1.0, x)))
    return made if scale == 1 else made * scale


class _Unit(torch.autograd.Function):
    """Keeps the operand alone; its backward pass makes the operand's gradient and nothing else of that size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.scale = scale
        made: Tensor = x * (_inverse(x) * scale)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        (grad,) = grads
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            (found,) = torch.autograd.grad(_plain(x, ctx.scale), x, grad, create_graph=True)
            return found, None
        inverse = _inverse(x)
        along = torch.einsum("...d,...d->...", grad, x)[..., None] * inverse
        factor = torch.where(inverse >= 1 / LEAST, 0.0, inverse * ctx.scale)
        made = grad * factor
        return made.addcmul_(x, along * inverse * factor, value=-1), None
