"""Block by block: products into one buffer, the rule's gradients at once, two products back, drop the block."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from torchlosses.engine.outcome import Outcome, weigh
from torchlosses.engine.problem import Problem, Tensors
from torchlosses.engine.streaming import stream_block
from torchlosses.lowering import HALVES, Lowered, Plan


class Gradients:
    """Running gradients of a problem's inputs, in float32 or float64."""

    def __init__(self, problem: Problem, tensors: Tensors, needed: set[str]) -> None:
        self.problem, self.tensors, self.needed = problem, tensors, needed
        self.sums: Tensors = {}
        for key in needed:
            t = tensors[key]
            wide = torch.float32 if t.dtype in HALVES else t.dtype
            self.sums[key] = torch.zeros(t.shape, dtype=wide, device=t.device)

    @staticmethod
    def leaves(tensors: Tensors, keys: list[str]) -> list[Tensor]:
        """Some inputs of a block as leaves of their own, put back in their places; parameters stay themselves."""
        for key in keys:
            if not key.startswith("param."):
                tensors[key] = tensors[key].detach().requires_grad_()
        return [tensors[key] for key in keys]

    def add_found(self, keys: list[str], found: Iterable[Tensor | None], span: tuple[int, int]) -> None:
        """Adds what autograd found for those leaves."""
        for key, gradient in zip(keys, found, strict=True):
            if gradient is not None:
                self.add(key, gradient, span)

    def add(self, key: str, gradient: Tensor, span: tuple[int, int]) -> None:
        """Adds the gradient of an input's block."""
        into = self.sums[key]
        if self.problem.per_row(key, into):
            into[span[0] : span[1]] += gradient
        else:
            into += gradient

    def push(self, i: int, piece: Lowered, gradient: Tensor, span: tuple[int, int], columns: slice = slice(None)) -> None:
        """The two products back from the gradient of a block of raw products."""
        left_key, right_key = f"s{i}.left", f"s{i}.right"
        rows = slice(*span)
        if piece.right is None:
            if left_key in self.needed:
                self.sums[left_key][rows, columns] = gradient
            return
        left, right = self.tensors[left_key][rows], self.tensors[right_key]
        if piece.private:
            if left_key in self.needed:
                self.sums[left_key][rows] = torch.einsum("bk,bkd->bd", gradient, right[rows].to(gradient.dtype))
            if right_key in self.needed:
                self.sums[right_key][rows] = gradient[:, :, None] * left[:, None, :]
            return
        right = right[columns]
        if left_key in self.needed:
            self.sums[left_key][rows].addmm_(gradient, right.to(gradient.dtype))
        if right_key in self.needed:
            self.sums[right_key][columns].addmm_(gradient.T, left.to(gradient.dtype))


class Buffers:
    """Reused storage for blocks of raw products."""

    def __init__(self, plan: Plan, rows: int) -> None:
        self.plan = plan
        self.store = torch.empty((rows, plan.columns), dtype=plan.dtype, device=plan.device)

    def products(self, prefix: str, tensors: Tensors) -> list[Tensor]:
        """Raw products of a block (its inputs already cut to rows), side by side in the buffer."""
        raws, start = [], 0
        for i, piece in enumerate(self.plan.pieces):
            left = tensors[f"{prefix}{i}.left"]
            view = self.store[: left.shape[0], start : start + piece.columns]
            start += piece.columns
            if piece.right is None:
                view.copy_(left)
            elif piece.private:
                view.copy_(torch.bmm(tensors[f"{prefix}{i}.right"], left[:, :, None]).squeeze(2))
            elif left.dtype == self.plan.dtype and view.is_contiguous():
                torch.mm(left, tensors[f"{prefix}{i}.right"].T, out=view)
            else:
                view.copy_(left @ tensors[f"{prefix}{i}.right"].T)
            raws.append(view)
        return raws


class Walk:
    """One pass over the blocks of a problem."""

    def __init__(self, problem: Problem, tensors: Tensors) -> None:
        self.problem = problem
        self.tensors = {k: t.detach() if not k.startswith("param.") else t for k, t in tensors.items()}
        self.spans = list(problem.spans())
        height = max((b - a for a, b in self.spans), default=0)
        self.streams = problem.streams
        self.buffers = Buffers(problem.plan, height)
        self.teacher_buffers = None if problem.teacher is None else Buffers(problem.teacher, height)

    def terms(self) -> int:
        """How many terms the rule returns, from the first block."""
        with torch.no_grad():
            return len(self._block(self.spans[0], None, None).terms)

    def values(self) -> list[Outcome]:
        """Settled outcomes of all blocks, without gradients."""
        with torch.no_grad():
            return [self._block(span, None, None) for span in self.spans]

    def gradients(self, weights: dict[str, Tensor] | None, needed: set[str]) -> tuple[list[Outcome], Gradients]:
        """Outcomes, and gradients of the sum over rows of weight times value (1 without ``weights``)."""
        sums = Gradients(self.problem, self.tensors, needed)
        return [self._block(span, sums, weights) for span in self.spans], sums

    def _block(self, span: tuple[int, int], sums: Gradients | None, weights: dict[str, Tensor] | None) -> Outcome:
        problem = self.problem
        tensors = problem.cut(self.tensors, span)
        tensors["start"] = torch.tensor(span[0])
        with torch.no_grad():
            raws = self.buffers.products("s", tensors)
            teacher, known = None, None
            if problem.teacher is not None and self.teacher_buffers is not None:
                teacher_raws = self.teacher_buffers.products("t", tensors)
                teacher, known = problem.finish("t", problem.teacher, tensors, teacher_raws)
        coefficient = None
        if weights is not None:
            coefficient = {name: w[span[0] : span[1]] if w.dim() else w for name, w in weights.items()}
        if self.streams:
            return stream_block(problem, raws[0], tensors, span, sums, coefficient)
        if sums is None:
            scores, exists = problem.finish("s", problem.plan, tensors, raws)
            return problem.outcome(scores, exists, tensors, span[0], teacher, known).detached()
        return self._with_gradient(raws, tensors, span, sums, coefficient, teacher, known)

    def _with_gradient(
        self,
        raws: list[Tensor],
        tensors: Tensors,
        span: tuple[int, int],
        sums: Gradients,
        coefficient: dict[str, Tensor] | None,
        teacher: Tensor | None,
        known: Tensor | None,
    ) -> Outcome:
        problem = self.problem
        products = {f"s{i}.left" for i in range(len(raws))} | {f"s{i}.right" for i in range(len(raws))}
        others = sorted(sums.needed - products)
        needs_raw = [bool({f"s{i}.left", f"s{i}.right"} & sums.needed) for i in range(len(raws))]
        with torch.enable_grad():
            leaves = [raw.detach().requires_grad_(need) for raw, need in zip(raws, needs_raw, strict=True)]
            other_leaves = sums.leaves(tensors, others)
            scores, exists = problem.finish("s", problem.plan, tensors, leaves)
            outcome = problem.outcome(scores, exists, tensors, span[0], teacher, known)
            total = weigh(outcome, coefficient)
        wanted = [leaf for leaf, need in zip(leaves, needs_raw, strict=True) if need] + other_leaves
        if total.requires_grad and wanted:
            found = list(torch.autograd.grad(total, wanted, allow_unused=True))
            with torch.no_grad():
                for i, need in enumerate(needs_raw):
                    gradient = found.pop(0) if need else None
                    if gradient is not None:
                        sums.push(i, problem.plan.pieces[i], gradient, span)
                sums.add_found(others, found, span)
        return outcome.detached()


def gather(outcomes: list[Outcome]) -> Outcome:
    """The blocks' outcomes, end to end."""
    terms: dict[str, Any] = {}
    for name in outcomes[0].terms:
        values = torch.cat([o.terms[name][0] for o in outcomes])
        counts = [o.terms[name][1] for o in outcomes]
        terms[name] = values, torch.cat([c for c in counts if c is not None])
    updates = {name: torch.cat([o.updates[name] for o in outcomes]) for name in outcomes[0].updates}
    return Outcome(terms, updates)
