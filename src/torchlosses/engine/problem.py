"""One call, ready to evaluate on any block of rows: lowered scores, targets, fields, and the rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchlosses.engine import budget
from torchlosses.engine.block import Block, Exists
from torchlosses.engine.outcome import Outcome, Summary, Term
from torchlosses.lazy import lazy
from torchlosses.lowering import Lowered, Plan, finish, join

Rule = Callable[[Tensor, Block, dict[str, Tensor]], Outcome]
SummaryRule = Callable[[Summary, Block, dict[str, Tensor]], Outcome]
Tensors = dict[str, Tensor]
WITH_INDEX = ("classes", "paired", "preferred")  # kinds with one right column per row
POOLED = ("same_label", "multi_label", "multi_index")  # kinds with any number of right columns, all alike


@dataclass
class Problem:
    """Everything one evaluation depends on. ``over`` says what the mean's denominator counts."""

    plan: Plan
    kind: str
    rows: Tensors
    shared: Tensors
    options: dict[str, Any]
    fields: Tensors
    rule: Rule
    over: str
    parameters: list[Tensor] = field(default_factory=list)
    teacher: Plan | None = None
    joint_support: bool = True  # cells that the teacher hides do not exist for the student either
    copies: float = 8.0
    summary: tuple[str, ...] = ()
    summary_rule: SummaryRule | None = None
    slopes: tuple[float, float] = (1.0, 1.0)
    each: Callable[[Tensor], Tensor] | None = None
    own_terms: bool = False  # the rule's counts already say what `over` asks for
    own_class_weight: bool = False  # the rule's value already holds the class weights
    budget: budget.Budget = field(default_factory=budget.current)

    # --- inputs ------------------------------------------------------------------------------------------------

    def inputs(self) -> Tensors:
        """Every tensor the value depends on, by a key that says where it goes back."""
        found: Tensors = {}
        for prefix, plan in (("s", self.plan), ("t", self.teacher)):
            for i, piece in enumerate(plan.pieces if plan else []):
                found[f"{prefix}{i}.left"] = piece.left
                if piece.right is not None:
                    found[f"{prefix}{i}.right"] = piece.right
                for k, (_, factor) in enumerate(piece.tail):
                    if isinstance(factor, Tensor):
                        found[f"{prefix}{i}.tail{k}"] = factor
        for prefix, group in (("rows", self.rows), ("shared", self.shared), ("fields", self.fields)):
            found.update({f"{prefix}.{name}": t for name, t in group.items()})
        found.update({f"param.{i}": p for i, p in enumerate(self.parameters)})
        return found

    def per_row(self, key: str, tensor: Tensor) -> bool:
        """Whether an input has one entry per row of scores."""
        group, name = key.split(".", 1)
        if group == "rows":
            return True
        if group in ("shared", "param"):
            return False
        if name == "right":
            plan = self.plan if group[0] == "s" else self.teacher
            return plan is not None and plan.pieces[int(group[1:])].private
        if name == "left":
            return True
        return tensor.dim() >= 1 and tensor.shape[0] == self.plan.rows

    @property
    def streams(self) -> bool:
        """Whether the hand-written gradient of a summary rule covers this call; otherwise the block rule does."""
        if self.summary_rule is None or not self.summary or self.teacher is not None or len(self.plan.pieces) != 1:
            return False
        piece = self.plan.pieces[0]
        if piece.private or not self.plan.columns or "mask" in self.rows:
            return False
        if any(op not in ("add", "hide") for op, _ in piece.tail):
            return False
        asked = set(self.summary)
        if (self.plan.masked and asked & {"total", "squares", "each"}) or {"squares", "each"} <= asked:
            return False
        if asked & {"near", "far"}:
            return self.kind in POOLED and not piece.tail and asked <= {"near", "far"}
        if self.kind in WITH_INDEX:
            return asked <= {"lse", "target", "rest", "total", "squares", "each"}
        return asked <= {"lse", "target"} and not any(t.requires_grad for t in self.rows.values())

    @lazy
    def by_label(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Columns ordered by label, where in that order each row's right columns begin, and how many they are.

        For integer labels; None for anything else.
        """
        if self.kind != "same_label" or any(t.dtype.is_floating_point for t in (self.shared["keys"], self.rows["labels"])):
            return None
        keys, order = self.shared["keys"].long().sort(stable=True)
        labels = self.rows["labels"].long().contiguous()
        begin = torch.searchsorted(keys, labels)
        return order, begin, torch.searchsorted(keys, labels, right=True) - begin

    # --- blocks ------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of the whole matrix."""
        return self.plan.rows * self.plan.columns * (torch.finfo(self.plan.dtype).bits // 8)

    def spans(self) -> Iterator[tuple[int, int]]:
        size = torch.finfo(self.plan.dtype).bits // 8
        copies = 1.0 if self.streams else self.copies
        operands = sum(p.right.numel() for p in self.plan.pieces if p.right is not None) * size
        step = self.budget.rows(self.plan.rows, self.plan.columns, size, copies, operands)
        for start in range(0, self.plan.rows, step):
            yield start, min(start + step, self.plan.rows)

    def cut(self, tensors: Tensors, span: tuple[int, int]) -> Tensors:
        """The inputs of a block: rows sliced, the rest whole."""
        return {k: t[span[0] : span[1]] if self.per_row(k, t) else t for k, t in tensors.items()}

    def finish(self, prefix: str, plan: Plan, tensors: Tensors, raws: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Scores of a block from its raw products."""
        parts, valids = [], []
        for i, (piece, raw) in enumerate(zip(plan.pieces, raws, strict=True)):
            tail = [(op, tensors.get(f"{prefix}{i}.tail{k}", factor)) for k, (op, factor) in enumerate(piece.tail)]
            own = self._own(piece, tensors, raw)
            part, valid = finish(piece, raw, tail, own, plan.dtype)
            parts.append(part)
            valids.append(valid)
        return join(parts, valids)

    @staticmethod
    def _own(piece: Lowered, tensors: Tensors, raw: Tensor) -> Tensor | None:
        if piece.own_rows is None:
            return None
        start = int(tensors["start"]) if "start" in tensors else 0
        return piece.own_rows[start : start + raw.shape[0]]

    def block(
        self,
        tensors: Tensors,
        rows: int,
        start: int,
        exists: Exists,
        teacher: Tensor | None = None,
        known: Tensor | None = None,
    ) -> tuple[Block, Tensors]:
        """The targets of a block of rows, and its fields."""
        pick = {
            p: {k[len(p) + 1 :]: t for k, t in tensors.items() if k.startswith(p + ".")}
            for p in ("rows", "shared", "fields")
        }
        size = (rows, self.plan.columns)
        block = Block(
            self.kind,
            pick["rows"],
            pick["shared"],
            self.options,
            size,
            start,
            self.plan.dtype,
            self.plan.device,
            exists,
            teacher,
            known,
        )
        return block, pick["fields"]

    def outcome(
        self,
        scores: Tensor,
        exists: Tensor | None,
        tensors: Tensors,
        start: int,
        teacher: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Outcome:
        """The rule on a block of scores, settled. ``known``: the cells that the teacher has."""
        if self.joint_support and known is not None:
            exists, known = known if exists is None else exists & known, None
        teacher = None if teacher is None else teacher.detach()
        block, fields = self.block(tensors, scores.shape[0], start, exists, teacher, known)
        return self.settle(self.rule(scores, block, self.own_fields(fields)), block, fields)

    def own_fields(self, fields: Tensors) -> Tensors:
        return {name: t for name, t in fields.items() if name != "weight"}

    def settle(self, outcome: Outcome, block: Block, fields: Tensors) -> Outcome:
        """Ignored rows to 0, counts as ``over`` says, weights multiplied in. Afterwards every term has a count."""
        terms: dict[str, Term] = {}
        some = block.counted & block.filled
        for name, (value, count) in outcome.terms.items():
            full = block.counted.to(value.dtype)
            present = some if count is None else some & (count > 0)
            value = torch.where(present, value, 0.0)
            if self.over == "rows":
                count = full
            elif self.over == "valid":
                count = present.to(value.dtype)
            elif self.over == "active" and not self.own_terms:
                count = (value.detach() > 0).to(value.dtype)
            else:
                count = torch.where(some, full if count is None else count, 0.0)
            weight = block.row_weight
            if weight is not None:
                value = value if self.own_class_weight else value * weight
                count = count * weight
            if "weight" in fields:
                row = fields["weight"].to(value.dtype)
                value, count = value * row, count * row
            terms[name] = value, count
        return Outcome(terms, outcome.updates)

    @property
    def count_known(self) -> bool:
        """Whether the mean's denominator follows from the targets alone."""
        return self.over == "rows"

    def known_count(self) -> Tensor:
        """That denominator."""
        tensors = self.inputs()
        block, fields = self.block(tensors, self.plan.rows, 0, None)
        count = block.counted.to(self.plan.dtype)
        if block.row_weight is not None:
            count = count * block.row_weight
        if "weight" in fields:
            count = count * fields["weight"]
        return count.sum()

    def dense(self, tensors: Tensors | None = None) -> Outcome:
        """The whole matrix at once, by ordinary autograd; with ``tensors`` in place of the problem's own inputs."""
        tensors = self.inputs() if tensors is None else tensors
        scores, exists = self.finish("s", self.plan, tensors, self._products("s", self.plan, tensors))
        teacher, known = None, None
        if self.teacher is not None:
            teacher, known = self.finish("t", self.teacher, tensors, self._products("t", self.teacher, tensors))
        return self.outcome(scores, exists, tensors, 0, teacher, known)

    @staticmethod
    def _products(prefix: str, plan: Plan, tensors: Tensors) -> list[Tensor]:
        raws = []
        for i, piece in enumerate(plan.pieces):
            left = tensors[f"{prefix}{i}.left"]
            if piece.right is None:
                raws.append(left)
                continue
            right = tensors[f"{prefix}{i}.right"]
            raws.append(torch.einsum("bd,bkd->bk", left, right) if piece.private else left @ right.T)
        return raws
