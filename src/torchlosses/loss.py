"""The base class of every objective: declared hyperparameters, a card, and the two-argument call."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import dataclass_transform

from torchlosses.card import Card
from torchlosses.engine import evaluate
from torchlosses.engine.batch import Batch
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import Outcome, Returned, Summary
from torchlosses.engine.problem import Problem
from torchlosses.hyperparameters import Hyper, choice, data
from torchlosses.lowering import again, can_branch, lower
from torchlosses.reductions import OVER, Reduction, ReductionLike, as_reduction
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import VIEWS, Targets, classes, graded, multi_label, soft


@dataclass_transform(kw_only_default=True, field_specifiers=(data,))
class Loss(nn.Module):
    """A training objective. Hyperparameters are class attributes made by ``real``, ``choice``, ``flag`` ...

    They become keyword arguments of the constructor, are validated, shown in ``repr`` and, where a search range is
    declared, tuned by ``compare``. Override :meth:`setup` to create parameters and buffers.
    """

    card: ClassVar[Card | None] = None
    _hypers: ClassVar[dict[str, Hyper]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        hypers: dict[str, Hyper] = {}
        for base in reversed(cls.__bases__):
            hypers.update(getattr(base, "_hypers", {}))
        for name, value in list(vars(cls).items()):
            if isinstance(value, Hyper):
                hypers[name] = Hyper(**{**vars(value), "name": name})
                delattr(cls, name)
            elif name in hypers and not callable(value):
                hypers[name] = Hyper(**{**vars(hypers[name]), "default": hypers[name].validate(value)})
                delattr(cls, name)
        cls._hypers = hypers
        parameters = [
            inspect.Parameter(
                n,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if h.required else h.default,
            )
            for n, h in hypers.items()
        ]
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__()
        for name in hyperparameters:
            if name not in self._hypers:
                raise TypeError(f"{type(self).__name__}: unexpected hyperparameter {name!r}, expected {self._expected()}")
        for name, hyper in self._hypers.items():
            value = hyper.validate(hyperparameters.get(name, hyper.default))
            if isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self._given = {n: v for n, v in hyperparameters.items() if not isinstance(v, Tensor)}
        self.setup()

    def _expected(self) -> str:
        return ", ".join(self._hypers) if self._hypers else "none"

    def setup(self) -> None:
        """Creates what the hyperparameters imply: parameters, buffers, checks across hyperparameters."""

    @classmethod
    def hyperparameters(cls) -> dict[str, Hyper]:
        """Every declared hyperparameter by name."""
        return dict(cls._hypers)

    def extra_repr(self) -> str:
        shown = [f"{n}={getattr(self, n)!r}" for n, h in self._hypers.items() if n in self._given or h.search is not None]
        return ", ".join(shown)


class RowLoss(Loss):
    """A rule for one row: (scores row, target row) -> one number, evaluated in blocks and reduced over rows.

    Subclasses define :meth:`rule` (any PyTorch on a block), or :attr:`summary` and :meth:`from_summary` when the row
    matters only through a few numbers. ``accepts`` lists the views of the targets that the rule can read, best first;
    ``plain`` what a plain tensor means: 'auto' (integers (B,) are classes, floats (B, L) soft), 'graded', 'multi_label'.

    Arguments of every row loss:
        reduction: 'mean', 'sum', 'none', or a reduction such as ``CVaR(0.1)``.
        over: what the mean divides by: 'rows' (all rows that are not ignored), 'valid' (rows that yield a term),
            'active' (values > 0), 'terms' or 'pairs' (the rule's own counts).
    """

    accepts: ClassVar[tuple[str, ...]] = ("index",)
    plain: ClassVar[str] = "auto"
    summary: ClassVar[tuple[str, ...]] = ()
    own_terms: ClassVar[bool] = False
    own_class_weight: ClassVar[bool] = False
    keeps_columns: ClassVar[bool] = True  # a right column is a column of the scores: what picks columns may go around it
    outermost: ClassVar[bool] = False  # nothing goes around it
    joint_support: ClassVar[bool] = True  # cells that a teacher hides (-inf) do not exist for the student either
    copies: ClassVar[float] = 8.0  # see temporaries

    reduction: ReductionLike = choice("mean", "how rows become one number", options=("mean", "sum", "none"))
    over: str = choice("rows", "what the mean divides by", options=OVER)

    def __init__(self, **hyperparameters: Any) -> None:
        reduction = hyperparameters.pop("reduction", "mean")
        self_reduction = as_reduction(reduction)
        super().__init__(**hyperparameters)
        self.reduction = reduction
        self._reduction = self_reduction
        self._latest: tuple[tuple[int, int], dict[str, Tensor]] | None = None
        if reduction != "mean":
            self._given["reduction"] = reduction

    fields_needed: ClassVar[frozenset[str]] = frozenset()  # fields the rule asks for
    fields_optional: ClassVar[frozenset[str]] = frozenset()  # fields it can do without

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        function = cls.rule if cls.rule is not RowLoss.rule else cls.from_summary
        asked = [p for p in inspect.signature(function).parameters.values() if p.kind == inspect.Parameter.KEYWORD_ONLY]
        cls.fields_needed = frozenset(p.name for p in asked if p.default is inspect.Parameter.empty)
        cls.fields_optional = frozenset(p.name for p in asked if p.default is not inspect.Parameter.empty)

    # --- what subclasses define ---------------------------------------------------------------------------------

    def rule(self, scores: Tensor, targets: Block, *args: Any, **fields: Any) -> Returned:
        """The rule on a block of rows; a value (b,), (value, count), named terms, or an Outcome."""
        if not self.summary:
            raise NotImplementedError(f"{type(self).__name__} defines neither rule nor summary")
        return self.from_summary(Summary(scores, targets), targets, **fields)

    def from_summary(self, row: Summary, targets: Block, *args: Any, **fields: Any) -> Returned:
        """The rule from the numbers named in ``summary``."""
        raise NotImplementedError

    def prepare(self, fields: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Runs once per call before the rows: reads (in training mode, advances) state; returns further fields.

        ``batch`` tells rows, columns and targets of the whole call; ``batch.scores()`` gives all scores (B, L) without
        gradient, for rules that need batch statistics.
        """
        return {}

    def commit(self, updates: dict[str, Tensor], fields: dict[str, Tensor]) -> None:
        """Stores what the rule returned as updates; called once per call, in training mode only."""

    def prescale(self) -> float | Tensor | None:
        """A factor on all scores (such as 1/temperature) that the engine folds into the operands."""
        return None

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """What the objective's own decision rule uses: here the softmax of the scores (..., L), no margin, no shift."""
        recipe = as_scores(scores)
        factor = self.prescale()
        return recipe.times(factor).tensor().softmax(-1)

    def temporaries(self, columns: int) -> float:
        """How many matrices like the block the rule holds at once; decides how many rows a block has."""
        return self.copies

    def slopes(self) -> tuple[float, float]:
        """Factors on the scores inside the numbers ``near`` and ``far``; the second is > 0."""
        return 1.0, 1.0

    def each(self, log_p: Tensor) -> Tensor:
        """What the number ``each`` sums over the existing columns: an elementwise function of log p."""
        raise NotImplementedError

    def streams(self, targets: Targets) -> tuple[str, ...]:
        """Numbers of the row that these targets need; empty where only the block rule serves."""
        return self.summary

    # --- the call ----------------------------------------------------------------------------------------------

    def forward(
        self, scores: Scores | Tensor, targets: Targets | Tensor, *, group: object = None, **fields: Tensor
    ) -> Tensor:
        """The value on scores and targets, reduced; (rows) with reduction='none'. ``fields`` as ``targets.given``.

        ``group=None``: every process evaluates its own rows, and what averages gradients averages these. Gathering
        columns over a process group is not part of this version; anything but None is refused.
        """
        if group is not None:
            raise ValueError(f"group: expected None (the rows of this process), got {type(group).__name__}")
        problem, leading, used = self._problem(scores, targets, fields)
        with torch.autocast(problem.plan.device.type, enabled=False):  # after the products, float32
            value, updates = self._value(problem, leading)
        self._commit(updates, used)
        return value

    def _value(self, problem: Problem, leading: torch.Size) -> tuple[Tensor, dict[str, Tensor]]:
        reduction = self._reduction
        if reduction.pools_linearly:
            found = evaluate.pooled(problem, reduction)
            if found is not None:
                return found
        outcome = evaluate.rows(problem)
        value = reduction(outcome.settled())
        return (value.reshape(leading) if self.reduction == "none" else value), outcome.updates

    def terms(self, scores: Scores | Tensor, targets: Targets | Tensor, **fields: Tensor) -> dict[str, Tensor]:
        """Each named term, reduced on its own, detached: for logging. State is not advanced."""
        with torch.no_grad(), _state_kept(self):
            problem, _, _ = self._problem(scores, targets, fields)
            with torch.autocast(problem.plan.device.type, enabled=False):
                outcome = evaluate.rows(problem).settled()
            return {name: self._reduction({name: term}) for name, term in outcome.items()}

    def _commit(self, updates: dict[str, Tensor], fields: dict[str, Tensor]) -> None:
        if updates and self.training and not again():
            with torch.no_grad():
                self.commit({n: u.detach() for n, u in updates.items()}, fields)

    def wrapped(self) -> RowLoss:
        """The loss whose rule runs in the end (itself, unless it wraps another)."""
        return self

    def _evaluate(self, scores: Tensor, targets: Block, fields: dict[str, Tensor]) -> Outcome:
        return Outcome.of(self.rule(scores, targets, **fields))

    def _evaluate_summary(self, row: Summary, targets: Block, fields: dict[str, Tensor]) -> Outcome:
        return Outcome.of(self.from_summary(row, targets, **fields))

    def _problem(
        self, scores: Scores | Tensor, targets: Targets | Tensor, given: dict[str, Tensor]
    ) -> tuple[Problem, torch.Size, dict[str, Tensor]]:
        recipe = self._scores(scores, targets)
        wanted = self._targets(targets).given(**given) if given else self._targets(targets)
        self.check(recipe, wanted)
        factor = self.prescale()
        scaled = recipe if factor is None else self._scaled(recipe, factor)
        with torch.autocast(recipe.device.type, enabled=False):
            fields = self._fields(recipe, wanted)
        plan = lower(scaled)
        teacher = None
        if wanted.teacher is not None:
            with torch.no_grad():
                teacher = lower(self.scale_teacher(wanted.teacher))
        problem = Problem(
            plan=plan,
            kind=wanted.kind,
            rows=dict(wanted.rows),
            shared=dict(wanted.shared),
            options=dict(wanted.options),
            fields=fields,
            rule=self._evaluate,
            over=self.over,
            parameters=[p for p in self.parameters() if p.requires_grad],
            teacher=teacher,
            joint_support=self.joint_support,
            copies=self.temporaries(plan.columns),
            summary=self.streams(wanted),
            summary_rule=self._evaluate_summary if self.summary else None,
            slopes=self.slopes(),
            each=self.each,
            own_terms=self.own_terms,
            own_class_weight=self.own_class_weight,
        )
        return problem, recipe.leading, fields

    def scale_teacher(self, scores: Scores) -> Scores:
        """The teacher's scores as the rule wants them."""
        return scores

    def _scaled(self, recipe: Scores, factor: float | Tensor) -> Scores:
        own = [f for piece in recipe.pieces for op, f in piece.steps if op == "mul" and piece.right is not None]
        scaled_by_caller = any(isinstance(f, Tensor) or f != 1 for f in own)
        twice = scaled_by_caller and (isinstance(factor, Tensor) or factor != 1)
        if twice and not torch.compiler.is_compiling() and not getattr(self, "_warned", False):
            self._warned = True
            warnings.warn(
                f"{type(self).__name__} applies its own temperature to scores that are already scaled; "
                "set temperature=1 or pass unscaled scores",
                stacklevel=5,
            )
        return recipe.times(factor)

    def _scores(self, scores: Scores | Tensor, targets: Targets | Tensor) -> Scores:
        return as_scores(scores)

    def _targets(self, targets: Targets | Tensor) -> Targets:
        if isinstance(targets, Targets):
            found = targets
        elif not isinstance(targets, Tensor):
            raise TypeError(f"targets: expected {self._accepted()}, got {type(targets).__name__}")
        elif self.plain == "graded":
            found = graded(targets)
        elif self.plain == "multi_label":
            found = multi_label(targets) if _is_hot(targets) else soft(targets)
        elif targets.dtype.is_floating_point:
            found = soft(targets)
        elif targets.dtype == torch.bool:
            found = multi_label(targets)
        else:
            found = classes(targets)
        if not set(found.views) & set(self.accepts):
            raise TypeError(f"targets: {type(self).__name__} expected {self._accepted()}, got {found.kind}()")
        return found

    def _accepted(self) -> str:
        kinds = [kind for kind, views in VIEWS.items() if set(views) & set(self.accepts)]
        return "one of " + ", ".join(f"{kind}()" for kind in kinds)

    def _fields(self, recipe: Scores, targets: Targets) -> dict[str, Tensor]:
        needed, free = self.wrapped().fields_needed, self.wrapped().fields_optional
        fields: dict[str, Tensor] = {}
        for name, tensor in targets.fields.items():
            fields[name] = self._field(name, tensor, recipe)
        if "query_norm" in needed | free and "query_norm" not in fields:
            fields["query_norm"] = recipe.query_norm
        fields.update(self._prepared(fields, recipe, targets))
        missing = needed - set(fields)
        if missing:
            name = sorted(missing)[0]
            raise TypeError(
                f"{name}: {type(self).__name__} needs it, one entry per row; attach it with targets.given({name}=tensor)"
            )
        return {n: t for n, t in fields.items() if n in needed | free or n == "weight"}

    def _prepared(self, fields: dict[str, Tensor], recipe: Scores, targets: Targets) -> dict[str, Tensor]:
        """What ``prepare`` returns; where a checkpoint evaluates a call again, what it returned at first."""
        rule = self.wrapped()
        size = (recipe.rows, recipe.columns_count)
        if again() and rule._latest is not None and rule._latest[0] == size:
            return rule._latest[1]
        made = rule.prepare(fields, self._batch(recipe, targets))
        for name, tensor in made.items():
            if tensor.dim() and tensor.shape[0] not in (1, recipe.rows):
                raise ValueError(
                    f"{name}: prepare of {type(rule).__name__} should return one entry per row ({recipe.rows}), or one per "
                    f"column as (1, L), or one; got shape {tuple(tensor.shape)}"
                )
        stateful = any(True for _ in rule.buffers()) or type(rule).get_extra_state is not nn.Module.get_extra_state
        if stateful and not any(t.requires_grad for t in made.values()):
            rule._latest = size, made
        return made

    def _batch(self, recipe: Scores, targets: Targets) -> Batch:
        """What ``prepare`` sees of the call."""
        return Batch(recipe, self.prescale(), targets)

    @staticmethod
    def _field(name: str, tensor: Tensor, recipe: Scores) -> Tensor:
        """An attached tensor with the rows' leading dimensions made one."""
        rows, lead = recipe.rows, len(recipe.leading)
        if not tensor.dim():
            return tensor.expand(rows) if name == "weight" else tensor
        if tensor.shape[:lead] == recipe.leading:
            flat = tensor.flatten(0, lead - 1)
        elif tensor.shape[0] == rows:
            flat = tensor
        else:
            raise ValueError(f"{name}: expected one entry per row ({rows}), got shape {tuple(tensor.shape)}")
        if name == "weight" and flat.dim() != 1:
            raise ValueError(f"weight: expected one entry per row ({rows}), got shape {tuple(tensor.shape)}")
        return flat

    def check(self, recipe: Scores, targets: Targets) -> None:
        """Shapes always, values on the CPU; raises before any work."""
        rows, columns = recipe.rows, recipe.columns_count
        for name, tensor in targets.rows.items():
            if tensor.shape[0] != rows:
                raise ValueError(f"targets: expected {rows} rows as the scores, got {tensor.shape[0]} ({name})")
            if tensor.dim() == 2 and tensor.shape[1] != columns and name != "indices":
                raise ValueError(
                    f"targets: expected shape ({rows}, {columns}) as the scores, got {tuple(tensor.shape)} ({name})"
                )
        for name, tensor in {**targets.rows, **targets.shared}.items():
            if tensor.device != recipe.device:
                raise ValueError(f"targets: expected {name} on {recipe.device} as the scores, got {tensor.device}")
        if targets.kind == "paired" and rows > columns:
            raise ValueError(f"targets: paired() needs a column for every row, got {rows} rows and {columns} columns")
        if targets.kind == "preferred" and columns < 1:
            raise ValueError("targets: preferred() needs at least one column, got 0")
        if targets.kind == "same_label" and targets.shared["keys"].shape[0] != columns:
            raise ValueError(
                f"targets: same_label() needs a label for each of {columns} columns, got {targets.shared['keys'].shape[0]}"
            )
        if targets.teacher is not None and (targets.teacher.rows, targets.teacher.columns_count) != (
            rows,
            columns,
        ):
            shape = (targets.teacher.rows, targets.teacher.columns_count)
            raise ValueError(f"targets: expected teacher scores of shape ({rows}, {columns}), got {shape}")
        weight = targets.shared.get("class_weight")
        if weight is not None and weight.shape[0] != columns:
            raise ValueError(f"weight: expected shape ({columns},), got {tuple(weight.shape)}")
        if targets.kind == "classes":
            self._check_index(targets.rows["index"], targets.options["ignore_index"], columns)
        elif targets.kind == "multi_index":
            self._check_index(targets.rows["indices"], -1, columns)

    @staticmethod
    def _check_index(index: Tensor, ignore: int, columns: int) -> None:
        bad = ((index < 0) | (index >= columns)) & (index != ignore)
        if not can_branch(index):
            if index.device.type != "cpu" and not torch.compiler.is_compiling():
                torch._assert_async(~bad.any())
        elif bool(bad.any()):
            place = tuple(bad.nonzero()[0].tolist())
            raise ValueError(f"targets: expected class indices in [0, {columns}), got {int(index[place])} at row {place[0]}")


def _is_hot(targets: Tensor) -> bool:
    if not targets.dtype.is_floating_point:
        return True
    if not can_branch(targets):
        return False  # soft targets say the same of zeros and ones
    return bool(((targets == 0) | (targets == 1)).all())


@contextmanager
def _state_kept(loss: nn.Module) -> Iterator[None]:
    """Buffers and generators of a loss and of those inside it are afterwards what they were."""
    buffers = [(b, b.clone()) for b in loss.buffers()]
    latest = [(m, m._latest) for m in loss.modules() if isinstance(m, RowLoss)]
    extra = [(m, m.get_extra_state()) for m in loss.modules() if type(m).get_extra_state is not nn.Module.get_extra_state]
    try:
        yield
    finally:
        for buffer, was in buffers:
            buffer.copy_(was)
        for module, state in extra:
            module.set_extra_state(state)
        for rule, prepared in latest:
            rule._latest = prepared


class Wrapper(RowLoss):
    """A row loss around another row loss; :meth:`rule` receives blocks as usual and calls ``self.loss``."""

    def __init__(self, loss: RowLoss, **hyperparameters: Any) -> None:
        if not isinstance(loss, RowLoss):
            raise TypeError(f"loss: expected a row loss, got {type(loss).__name__}")
        if loss.outermost:
            raise TypeError(f"loss: {type(loss).__name__} goes around other wrappers, not into {type(self).__name__}")
        super().__init__(**{"over": loss.over, "reduction": loss.reduction, **hyperparameters})
        self.loss = loss

    def wrapped(self) -> RowLoss:
        return self.loss.wrapped()

    @property
    def keeps_columns(self) -> bool:  # type: ignore[override]
        return self.loss.keeps_columns

    def _needs_columns(self) -> None:
        """Refuses a loss that counts its right columns otherwise."""
        if not self.loss.keeps_columns:
            raise TypeError(
                f"loss: {type(self).__name__} chooses columns, which {type(self.loss).__name__} regroups; put it inside: "
                f"{type(self.loss).__name__}({type(self).__name__}(...))"
            )

    @property
    def accepts(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.loss.accepts

    @property
    def plain(self) -> str:  # type: ignore[override]
        return self.loss.plain

    @property
    def own_terms(self) -> bool:  # type: ignore[override]
        return self.loss.own_terms

    @property
    def own_class_weight(self) -> bool:  # type: ignore[override]
        return self.loss.own_class_weight

    @property
    def joint_support(self) -> bool:  # type: ignore[override]
        return self.loss.joint_support

    def temporaries(self, columns: int) -> float:
        return self.loss.temporaries(columns)

    def prescale(self) -> float | Tensor | None:
        return self.loss.prescale()

    def _batch(self, recipe: Scores, targets: Targets) -> Batch:
        return self.loss._batch(recipe, targets)

    def scale_teacher(self, scores: Scores) -> Scores:
        return self.loss.scale_teacher(scores)

    def _scores(self, scores: Scores | Tensor, targets: Targets | Tensor) -> Scores:
        return self.loss._scores(scores, targets)

    def _targets(self, targets: Targets | Tensor) -> Targets:
        return self.loss._targets(targets)

    def check(self, recipe: Scores, targets: Targets) -> None:
        self.loss.check(recipe, targets)

    def commit(self, updates: dict[str, Tensor], fields: dict[str, Tensor]) -> None:
        self.loss.commit(updates, fields)

    def predict(self, scores: Scores | Tensor) -> Tensor:
        return self.loss.predict(scores)

    def _evaluate(self, scores: Tensor, targets: Block, fields: dict[str, Tensor]) -> Outcome:
        return self.loss._evaluate(scores, targets, fields)


class SetLoss(Loss):
    """An objective of the whole batch: one number, no rows; refuses every reduction but the mean."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        raise NotImplementedError


Rule = Callable[..., Returned]


def row_loss(accepts: Iterable[str] | Rule = ("index",), **options: Any) -> Any:
    """Turns a function ``rule(scores, targets, *, fields...)`` into a loss class with blocks, gradients and reductions.

    Arguments:
        accepts: views of the targets the rule reads: index, positive, grade, probability, scores, desirable.
        options: ``over`` (default of the mean's denominator), ``plain``, ``copies``.

    >>> import torch, torchlosses as tl
    >>> @tl.row_loss(accepts=["positive"])
    ... def MaxMargin(scores, targets):
    ...     worst = targets.max(scores, targets.negative, empty=0.0)
    ...     best = targets.min(scores, targets.positive, empty=0.0)
    ...     return (1 + worst - best).relu()
    >>> MaxMargin()(torch.tensor([[2.0, 1.5]]), tl.classes(torch.tensor([0])))
    tensor(0.5000)
    """
    if callable(accepts):
        return row_loss()(accepts)
    views = tuple(accepts)
    known = {view for found in VIEWS.values() for view in found}
    unknown = [view for view in views if view not in known]
    if unknown:
        raise ValueError(f"accepts: expected views among {', '.join(sorted(known))}, got {unknown[0]!r}")

    def build(function: Rule) -> type[RowLoss]:
        def evaluate_rule(self: RowLoss, scores: Tensor, targets: Block, **fields: Tensor) -> Returned:
            return function(scores, targets, **fields)

        evaluate_rule.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
                *inspect.signature(function).parameters.values(),
            ]
        )
        body = {
            "rule": evaluate_rule,
            "accepts": views,
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            **options,
        }
        return type(function.__name__, (RowLoss,), body)

    return build


__all__ = ["Loss", "Reduction", "RowLoss", "SetLoss", "Wrapper", "row_loss"]
