"""Declaring a loss's hyperparameters once: type, legal range, default, and the range a search may use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True)
class Search:
    """The range a tuner draws from: ``low..high``, linear or logarithmic, or a set of choices.

    >>> Search(0.01, 1.0, log=True)
    Search(low=0.01, high=1.0, log=True, choices=())
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Hyper:
    """One declared hyperparameter."""

    kind: str
    default: Any
    doc: str = ""
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    choices: tuple[Any, ...] = ()
    optional: bool = False
    search: Search | None = None
    check: Callable[[Any], str | None] | None = None
    name: str = ""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def expected(self) -> str:
        """The legal values in words, as error messages and documentation print them."""
        if self.kind == "choice":
            text = "one of " + ", ".join(repr(c) for c in self.choices)
        elif self.kind == "flag":
            text = "True or False"
        elif self.kind == "data":
            text = self.doc or "a tensor"
        elif self.kind == "reals":
            text = f"a number or a tuple of numbers in [{self.low:g}, {self.high:g}]"
        else:
            noun = "an integer" if self.kind == "integer" else "a number"
            left = "(" if self.low_open or math.isinf(self.low) else "["
            right = ")" if self.high_open or math.isinf(self.high) else "]"
            text = f"{noun} in {left}{self.low:g}, {self.high:g}{right}"
        return text + (" or None" if self.optional else "")

    def validate(self, value: Any) -> Any:
        """Returns the value in its declared type, or raises ValueError/TypeError naming it."""
        if value is None and self.optional:
            return None
        if value is REQUIRED:
            raise TypeError(f"{self.name}: required, expected {self.expected}")
        if self.kind == "choice":
            if value not in self.choices:
                raise ValueError(f"{self.name}: expected {self.expected}, got {value!r}")
            return value
        if self.kind == "flag":
            if not isinstance(value, bool):
                raise TypeError(f"{self.name}: expected {self.expected}, got {value!r}")
            return value
        if self.kind == "data":
            return value
        if self.kind == "reals":
            each = Hyper("real", None, low=self.low, high=self.high, name=self.name)
            found = value if isinstance(value, (tuple, list)) else (value,)
            return tuple(each.validate(v) for v in found)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{self.name}: expected {self.expected}, got {type(value).__name__} {value!r}")
        if self.kind == "integer":
            if int(value) != value:
                raise ValueError(f"{self.name}: expected {self.expected}, got {value!r}")
            value = int(value)
        else:
            value = float(value)
        below = value < self.low or (self.low_open and value <= self.low)
        above = value > self.high or (self.high_open and value >= self.high)
        if below or above or math.isnan(value):
            raise ValueError(f"{self.name}: expected {self.expected}, got {value!r}")
        return value


class _Required:
    def __repr__(self) -> str:
        return "<required>"


REQUIRED: Any = _Required()


def _search(search: Sequence[Any] | None) -> Search | None:
    if search is None:
        return None
    log = len(search) == 3 and search[2] == "log"
    return Search(float(search[0]), float(search[1]), log)


def real(
    default: Any = REQUIRED,
    doc: str = "",
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float | None = None,
    below: float | None = None,
    optional: bool = False,
    search: Sequence[Any] | None = None,
) -> float:
    """A real hyperparameter in ``[low, high]``; ``above``/``below`` are strict bounds; ``search=(lo, hi[, "log"])``."""
    hyper = Hyper(
        "real",
        default,
        doc,
        low if above is None else above,
        high if below is None else below,
        above is not None,
        below is not None,
        optional=optional,
        search=_search(search),
    )
    return cast(float, hyper)


def integer(
    default: Any = REQUIRED,
    doc: str = "",
    *,
    low: int = 0,
    high: float = math.inf,
    optional: bool = False,
    search: Sequence[Any] | None = None,
) -> int:
    """An integer hyperparameter in ``[low, high]``."""
    return cast(int, Hyper("integer", default, doc, low, high, optional=optional, search=_search(search)))


def reals(
    default: Sequence[float],
    doc: str = "",
    *,
    low: float = -math.inf,
    high: float = math.inf,
    search: Sequence[Any] | None = None,
) -> tuple[float, ...]:
    """A tuple of real numbers in ``[low, high]``; one number stands for a tuple of one, which is what a search draws."""
    hyper = Hyper("reals", tuple(default), doc, low, high, search=_search(search))
    return cast("tuple[float, ...]", hyper)


def choice(default: Any, doc: str = "", *, options: Sequence[Any], search: Sequence[Any] | None = None) -> str:
    """A hyperparameter that takes one of the options."""
    found = None if search is None else Search(choices=tuple(search))
    return cast(str, Hyper("choice", default, doc, choices=tuple(options), search=found))


def flag(default: bool, doc: str = "", *, search: bool = False) -> bool:
    """A hyperparameter that is on or off."""
    found = Search(choices=(False, True)) if search else None
    return cast(bool, Hyper("flag", default, doc, search=found))


def data(doc: str, default: Any = REQUIRED) -> Any:
    """What comes from the training data (class counts, number of examples, ...): never tuned; a tensor becomes a buffer."""
    return Hyper("data", default, doc, optional=default is None)
