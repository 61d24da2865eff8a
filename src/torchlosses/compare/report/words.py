"""Numbers and settings as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchlosses.compare.statistics import Interval


def number(value: float | None, digits: int = 4) -> str:
    """A measured number, or a dash where none was measured.

    >>> number(0.98765), number(None)
    ('0.9877', '–')
    """
    return "–" if value is None else f"{value:.{digits}f}"


def around(interval: Interval | None, mean: float | None, digits: int = 4) -> str:
    """A mean with the ends of its interval.

    >>> around(Interval(0.9, 0.85, 0.95), 0.9, 2)
    '0.90 [0.85, 0.95]'
    """
    if interval is None:
        return number(mean, digits)
    return f"{number(interval.mean, digits)} [{number(interval.low, digits)}, {number(interval.high, digits)}]"


def chance(p: float) -> str:
    """A p value.

    >>> chance(0.00004), chance(0.0312)
    ('<0.001', '0.031')
    """
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def setting(values: Mapping[str, Any]) -> str:
    """A setting on one line.

    >>> setting({"margin": 0.25, "hard": True})
    'margin = 0.25, hard = True'
    """
    return ", ".join(f"{n} = {v:.4g}" if isinstance(v, float) else f"{n} = {v}" for n, v in values.items())


def size(count: float) -> str:
    """Bytes.

    >>> size(1536), size(3_000_000)
    ('2 kB', '3.0 MB')
    """
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
