"""Choosing how a problem is evaluated, and the two autograd functions that do it in blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from torchlosses.engine import spherical
from torchlosses.engine.blocked import Walk, gather
from torchlosses.engine.outcome import Outcome, Term
from torchlosses.engine.problem import Problem, Tensors
from torchlosses.reductions import Reduction, Unreduced, safe_inverse


def is_small(problem: Problem) -> bool:
    """Whether the matrix (with the rule's own temporaries) is materialized."""
    size = problem.size
    if forward_ad._current_level >= 0:  # forward mode follows ordinary operations only
        return True
    return size * max(1.0, problem.copies / 8) <= problem.budget.dense or problem.plan.rows == 0


def rows(problem: Problem) -> Outcome:
    """Settled values and counts of every row; differentiable."""
    if is_small(problem):
        return problem.dense()
    if spherical.serves(problem):
        return spherical.rows(problem)
    inputs = problem.inputs()
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in inputs.values())):
        return gather(Walk(problem, inputs).values())
    record = _Record(problem, list(inputs))
    flat = _Rows.apply(record, *inputs.values())  # type: ignore[no-untyped-call]
    terms: dict[str, Term] = {name: (flat[2 * i], flat[2 * i + 1]) for i, name in enumerate(record.names)}
    return Outcome(terms, record.updates)


def pooled(problem: Problem, reduction: Reduction) -> tuple[Tensor, dict[str, Tensor]] | None:
    """A reduction that pools linearly (mean, sum), gradients taken in the forward pass.

    None where that does not apply: small matrices, no matrix at all, no gradients wanted, row weights that want gradients,
    several terms whose counts are not known beforehand.
    """
    if is_small(problem) or spherical.serves(problem):
        return None
    inputs = problem.inputs()
    weight = problem.fields.get("weight")
    if (weight is not None and weight.requires_grad) or not torch.is_grad_enabled():
        return None
    if not any(t.requires_grad for t in inputs.values()):
        return None
    if reduction.divides and not problem.count_known and Walk(problem, inputs).terms() > 1:
        return None  # each term has a denominator of its own, known only at the end
    record = _Record(problem, list(inputs), reduction)
    value = _Pooled.apply(record, *inputs.values())  # type: ignore[no-untyped-call]
    return value, record.updates


class _Record:
    """What one evaluation leaves beside its tensors."""

    def __init__(self, problem: Problem, keys: list[str], reduction: Reduction | None = None) -> None:
        self.problem, self.keys = problem, keys
        self.reduce = reduction or Unreduced()
        self.names: list[str] = []
        self.updates: dict[str, Tensor] = {}

    def needed(self, flags: tuple[bool, ...]) -> set[str]:
        return {key for key, flag in zip(self.keys, flags, strict=True) if flag and not key.startswith("t")}

    def tensors(self, values: tuple[Tensor, ...]) -> Tensors:
        return dict(zip(self.keys, values, strict=True))


def _twice(record: _Record, tensors: tuple[Tensor, ...]) -> Outcome:
    """The dense value on the original graph, for differentiating a backward pass; refused where it would not fit."""
    problem = record.problem
    size = problem.size
    if size > max(problem.budget.most, problem.budget.dense):
        raise RuntimeError(
            f"double differentiation of a blocked loss needs the whole matrix ({size >> 20} MiB), more than the budget; "
            "raise it with torchlosses.memory_budget(dense=...) or pass scores.tensor()"
        )
    return problem.dense(record.tensors(tensors))


class _Rows(torch.autograd.Function):
    """Row values, evaluated without gradient and recomputed in the backward pass."""

    @staticmethod
    def forward(ctx: Any, record: _Record, *tensors: Tensor) -> tuple[Tensor, ...]:
        outcome = gather(Walk(record.problem, record.tensors(tensors)).values())
        record.names, record.updates = list(outcome.terms), outcome.updates
        ctx.record = record
        ctx.save_for_backward(*tensors)
        flat = [t for term in outcome.settled().values() for t in term]
        weight = record.problem.fields.get("weight")
        ctx.weighted = weight is not None and weight.requires_grad
        if not ctx.weighted:
            ctx.mark_non_differentiable(*flat[1::2])
        return tuple(flat)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        record: _Record = ctx.record
        saved = ctx.saved_tensors
        flags = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            with torch.enable_grad():
                aliases = _aliases(record, saved)
                outcome = _twice(record, aliases)
                outputs = [t for term in outcome.settled().values() for t in term]
                pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
                return _spread(record, flags, aliases, [o for o, _ in pairs], [g for _, g in pairs])
        weights = {name: grads[2 * i] for i, name in enumerate(record.names)}
        needed = record.needed(flags)
        _, sums = Walk(record.problem, record.tensors(saved)).gradients(weights, needed)
        if ctx.weighted:  # counts are proportional to the rows' weights
            weight = record.problem.fields["weight"].detach()
            extra = sum(
                (_unweighted(record, saved, name) * grads[2 * i + 1] for i, name in enumerate(record.names)),
                0.0,
            )
            sums.sums["fields.weight"] += torch.as_tensor(extra).to(weight.dtype)
        return (None, *(_cast(sums.sums.get(key), t) for key, t in zip(record.keys, saved, strict=True)))


def _unweighted(record: _Record, saved: tuple[Tensor, ...], name: str) -> Tensor:
    """Counts of rows as if every row weighed 1."""
    tensors = record.tensors(saved)
    tensors["fields.weight"] = torch.ones_like(tensors["fields.weight"])
    return gather(Walk(record.problem, tensors).values()).settled()[name][1]


class _Pooled(torch.autograd.Function):
    """The mean or sum of all rows; its gradients are ready when the forward pass ends."""

    @staticmethod
    def forward(ctx: Any, record: _Record, *tensors: Tensor) -> Tensor:
        problem = record.problem
        walk = Walk(problem, record.tensors(tensors))
        needed = record.needed(ctx.needs_input_grad[1:])
        weights = {"*": safe_inverse(problem.known_count())} if record.reduce.divides and problem.count_known else None
        outcomes, sums = walk.gradients(weights, needed)
        outcome = gather(outcomes)
        record.names, record.updates = list(outcome.terms), outcome.updates
        total = record.reduce(outcome.settled())
        if record.reduce.divides and weights is None:
            (_, count), *_ = outcome.settled().values()
            inverse = safe_inverse(count.sum())
            for gradient in sums.sums.values():
                gradient *= inverse
        ctx.record, ctx.sums = record, sums.sums
        ctx.save_for_backward(*tensors)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        record: _Record = ctx.record
        saved = ctx.saved_tensors
        flags = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            with torch.enable_grad():
                aliases = _aliases(record, saved)
                total = record.reduce(_twice(record, aliases).settled())
                return _spread(record, flags, aliases, [total], [grad])
        if ctx.sums is None:
            raise RuntimeError(
                "the gradients of this loss were already consumed; pass retain_graph=True to the first backward"
            )
        held = ctx.sums
        if not keeps_graph():  # the last use: scale in place, hand over without a copy
            ctx.sums = None
            if grad.device.type != "cpu" or float(grad) != 1.0:
                held = {key: gradient.mul_(grad) for key, gradient in held.items()}
        else:
            held = {key: gradient * grad for key, gradient in held.items()}
        return (None, *(_cast(held.pop(key, None), t) for key, t in zip(record.keys, saved, strict=True)))


def keeps_graph() -> bool:
    """Whether the running backward pass was asked to retain its graph; True where torch does not tell."""
    tell = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if tell is None else bool(tell())


def _cast(gradient: Tensor | None, like: Tensor) -> Tensor | None:
    return None if gradient is None else gradient.to(like.dtype)


def _aliases(record: _Record, saved: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs cut off from each other: one input may have been made from another, and each has its own gradient.

    Parameters stay themselves, since rules read them from the loss.
    """
    return tuple(t if key.startswith("param.") else t.view_as(t) for key, t in zip(record.keys, saved, strict=True))


def _spread(
    record: _Record, flags: tuple[bool, ...], aliases: tuple[Tensor, ...], roots: list[Tensor], grads: list[Tensor]
) -> tuple[Tensor | None, ...]:
    """Differentiable gradients of the inputs that want one, None elsewhere."""
    wanted = {key: t for key, t, flag in zip(record.keys, aliases, flags, strict=True) if flag}

    def grad(outputs: list[Tensor], keys: list[str], weights: list[Tensor]) -> dict[str, Tensor | None]:
        found = torch.autograd.grad(outputs, [wanted[k] for k in keys], weights, create_graph=True, allow_unused=True)
        return dict(zip(keys, found, strict=True))

    gradients = grad(roots, list(wanted), grads)
    parameters = [key for key in wanted if key.startswith("param.")]
    through = {key: g for key, g in gradients.items() if g is not None and key not in parameters}
    if parameters and through:  # what reaches a parameter through another input is that input's affair
        for key, part in grad([wanted[k] for k in through], parameters, list(through.values())).items():
            whole = gradients[key]
            if part is not None and whole is not None:
                gradients[key] = whole - part
    return (None, *(gradients.get(key) for key in record.keys))
