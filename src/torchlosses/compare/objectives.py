"""Which losses take part, with which fixed settings and search ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchlosses import catalog
from torchlosses.compare.refusal import Refusal
from torchlosses.hyperparameters import Hyper
from torchlosses.loss import Loss

# What is compared unless --loss says otherwise: well-known names, and one of each idea.
DEFAULTS = {
    "classification": (
        "CrossEntropy",
        "Focal",
        "PolyLoss",
        "GeneralizedCrossEntropy",
        "Sparsemax",
        "LogitAdjusted",
        "BinaryCrossEntropy",
        "ArcFace",
        "CosFace",
        "ALDR",
    ),
    "retrieval": (
        "CrossEntropy",
        "ArcFace",
        "CosFace",
        "InfoNCE",
        "SupCon",
        "TripletMargin",
        "MultiSimilarity",
        "Circle",
        "Contrastive",
        "SigLIP",
    ),
    "pairs": (
        "CrossEntropy",
        "InfoNCE",
        "SymmetricInfoNCE",
        "SigLIP",
        "TripletMargin",
        "MultiSimilarity",
        "Circle",
        "ListNet",
        "Contrastive",
        "BarlowTwins",
    ),
    "ranking": (
        "CrossEntropy",
        "BinaryCrossEntropy",
        "ListNet",
        "ListMLE",
        "PListMLE",
        "RankNet",
        "LambdaRank",
        "LambdaLoss",
        "PairwiseLoss",
        "Circle",
    ),
}


@dataclass(frozen=True)
class Objective:
    """A loss with what the user fixed of it; ``asked`` says that the user named it."""

    entry: catalog.Entry
    fixed: Mapping[str, Any] = field(default_factory=dict)
    asked: bool = False

    @property
    def label(self) -> str:
        if not self.fixed:
            return self.entry.name
        return f"{self.entry.name}:" + ",".join(f"{name}={value}" for name, value in self.fixed.items())

    @property
    def searched(self) -> dict[str, Hyper]:
        """The hyperparameters left to the search."""
        hypers = self.entry.loss.hyperparameters()
        return {n: h for n, h in hypers.items() if h.search is not None and n not in self.fixed}

    def defaults(self) -> dict[str, Any]:
        """The paper's value of everything searched; the middle of the range where it names none."""
        return {n: _middle(h) if h.required else _single(h.default) for n, h in self.searched.items()}

    def data(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What it needs to know of the training data."""
        hypers = self.entry.loss.hyperparameters().values()
        return {h.name: facts[h.name] for h in hypers if h.kind == "data" and h.name in facts and h.name not in self.fixed}

    def build(self, setting: Mapping[str, Any], facts: Mapping[str, Any]) -> Loss:
        """The loss with these values of what is searched, and what it needs to know of the training data."""
        return self.entry.loss(**self.data(facts), **self.fixed, **setting)

    def code(self, setting: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
        """The constructor call, as one writes it; what comes from the training data by its name."""
        shown = [f"{name}={_short(value)}" for name, value in {**self.fixed, **setting}.items()]
        shown += [f"{name}={name}" for name in self.data(facts)]
        return f"torchlosses.{self.entry.name}({', '.join(shown)})"


def chosen(task: str, specifications: Sequence[str]) -> list[Objective]:
    """The objectives of ``--loss`` options; without any, the task's default list; 'all': every card that names the task."""
    if not specifications:
        known = {entry.name: entry for entry in catalog.entries()}
        return [Objective(known[name]) for name in DEFAULTS[task] if name in known]
    found: dict[str, Objective] = {}
    for text in specifications:
        everything = text.casefold() == "all"
        group = [Objective(e) for e in catalog.search(task=task)] if everything else [parse(text)]
        for objective in group:
            if objective.label in found and not everything:
                raise Refusal(f"--loss: {objective.label} is given twice")
            found.setdefault(objective.label, objective)
    return list(found.values())


def parse(text: str) -> Objective:
    """``NAME`` or ``NAME:param=value,param=value``; the values in the types and ranges that the loss declares."""
    name, _, rest = text.partition(":")
    try:
        entry = catalog.find(name).entry
    except catalog.UnknownLoss as unknown:
        raise Refusal(f"--loss: {unknown}") from None
    hypers = entry.loss.hyperparameters()
    fixed: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise Refusal(f"--loss {name}: expected param=value, got {item!r}")
        if key not in hypers or key == "reduction":
            legal = ", ".join(n for n in hypers if n != "reduction") or "none"
            raise Refusal(f"--loss {name}: unknown parameter {key!r}, expected one of: {legal}")
        if key in fixed:
            raise Refusal(f"--loss {name}: {key} is given twice")
        try:
            fixed[key] = hypers[key].validate(_value(hypers[key], value))
        except (TypeError, ValueError) as problem:
            raise Refusal(f"--loss {name}: {problem}") from None
    return Objective(entry, fixed, asked=True)


def _value(hyper: Hyper, text: str) -> Any:
    """The text as a Python value; what cannot be one stays text, for the declaration to refuse."""
    if text.casefold() == "none" and (hyper.optional or None in hyper.choices):
        return None
    if hyper.kind == "flag":
        return {"true": True, "false": False}.get(text.casefold(), text)
    if hyper.kind == "choice":
        return next((c for c in hyper.choices if str(c).casefold() == text.casefold()), text)
    if hyper.kind == "data":
        raise ValueError(f"{hyper.name}: comes from the training data, it cannot be given")
    try:
        return float(text)
    except ValueError:
        return text


def _single(value: Any) -> Any:
    """A tuple of one number as the number, which is what a search draws."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _middle(hyper: Hyper) -> Any:
    search = hyper.search
    assert search is not None
    if search.choices:
        return search.choices[0]
    middle = math.sqrt(search.low * search.high) if search.log else (search.low + search.high) / 2
    return round(middle) if hyper.kind == "integer" else middle


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)
