"""Scales and ticks of a chart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` on pixels from ``start`` to ``end``, straight or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, log: bool = False) -> Scale:
        """A range with round ticks around the values.

        >>> Scale.over([0.93, 0.97], 0, 100).ticks
        (0.93, 0.94, 0.95, 0.96, 0.97)
        """
        known = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        least, most = (min(known), max(known)) if known else (0.0, 1.0)
        if log and known and most > least:
            powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
            ticks = [t for t in (10.0**p for p in powers) if least * 0.999 <= t <= most * 1.001]
            if len(ticks) < 2:
                ticks = [least, most]
            return cls(least, most, start, end, tuple(ticks), True)
        room = max(most - least, 1e-3 * max(1.0, abs(most)))
        step = 10 ** math.floor(math.log10(room / 2))
        step *= next(k for k in (1, 2, 5, 10) if room / (step * k) <= 5)
        low, high = math.floor(least / step + 1e-9) * step, math.ceil(most / step - 1e-9) * step
        if high <= low:
            high = low + step
        count = round((high - low) / step)
        return cls(low, high, start, end, tuple(round(low + k * step, 12) for k in range(count + 1)))

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * share


def svg(width: int, height: int, summary: str, marks: Sequence[str]) -> str:
    """A picture that a screen reader reads as its summary."""
    return f'<svg role=img aria-label="{escape(summary)}" viewBox="0 0 {width} {height}">' + "".join(marks) + "</svg>"


def across(scale: Scale, top: float, bottom: float, words: bool = True) -> list[str]:
    """Vertical rules with their numbers below."""
    marks = []
    for tick in scale.ticks:
        x = scale(tick)
        marks.append(f'<line class=rule x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        if words:
            marks.append(f'<text class=soft x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:.4g}</text>')
    return marks


def upward(scale: Scale, left: float, right: float) -> list[str]:
    """Horizontal rules with their numbers at the left."""
    marks = []
    for tick in scale.ticks:
        y = scale(tick)
        marks.append(f'<line class=rule x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text class=soft x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    return marks


def short(label: str, most: int) -> str:
    """A label cut to fit.

    >>> short("CrossEntropy", 6)
    'Cross…'
    """
    return label if len(label) <= most else label[: most - 1] + "…"
