"""The charts. What they show also stands in a table, or in words beside them."""

from __future__ import annotations

import statistics
from html import escape
from typing import Any

from torchlosses.compare.metrics import METRICS
from torchlosses.compare.report.axes import Scale, across, short, svg, upward
from torchlosses.compare.report.words import around, number, size
from torchlosses.compare.results import Outcome, Result


def dots(result: Result) -> str:
    """A row for each contender: its seeds, their mean, the interval."""
    metric = result.task.metric
    shown = [outcome for outcome in result.leaderboard() if outcome.finished]
    if not shown:
        return ""
    found = {o.label: result.intervals[o.label][metric] for o in shown}
    ends = [end for i in found.values() for end in (i.low, i.high)]
    width, row, left = 480, 46, 14
    bottom = 16 + row * len(shown)
    scale = Scale.over([*ends, *(v for o in shown for v in o.values(metric))], left, width - 20)
    marks = across(scale, 10, bottom)
    for place, outcome in enumerate(shown):
        y = 38 + row * place
        it = found[outcome.label]
        tip = f"{outcome.label}: {around(it, it.mean)}"
        beside = " class=beside" if outcome.yardstick else ""
        marks.append(
            f'<g{beside}><title>{escape(tip)}</title><text x="2" y="{y - 12}">{escape(short(outcome.label, 50))}</text>'
        )
        marks.append(f'<line class=bar x1="{scale(it.low):.1f}" x2="{scale(it.high):.1f}" y1="{y}" y2="{y}"/>')
        marks += [f'<circle class=seed cx="{scale(v):.1f}" cy="{y}" r="4"/>' for v in outcome.values(metric)]
        marks.append(f'<circle class=mean cx="{scale(it.mean):.1f}" cy="{y}" r="5.5"/></g>')
    return _chart(width, bottom + 24, f"{METRICS[metric].title} on test of each contender with its 95% interval", marks)


def _chart(width: int, height: int, summary: str, marks: list[str]) -> str:
    return f"<div class=chart>{svg(width, height, summary, marks)}</div>"


def costs(result: Result) -> str:
    """The metric against milliseconds of a step, the circles' area by the memory of a step."""
    metric = result.task.metric
    points = [
        (outcome.cost, mean, outcome.label)
        for outcome in result.leaderboard()
        if outcome.cost is not None and (mean := outcome.mean(metric)) is not None
    ]
    if not points:
        return ""
    width, height, left, right, bottom = 480, 360, 52, 300, 310
    x = Scale.over([0.0, *(c.step_ms for c, _, _ in points)], left, right)
    y = Scale.over([mean for _, mean, _ in points], bottom, 20)
    most = max(c.peak for c, _, _ in points) or 1
    marks = [*across(x, 20, bottom), *upward(y, left, right)]
    marks.append(f'<text class=soft x="{(left + right) / 2}" y="{bottom + 38}" text-anchor="middle">ms per step</text>')
    lines = _apart([y(mean) + 4 for _, mean, _ in points], 16)
    for (cost, mean, label), line in zip(points, lines, strict=True):
        at, up = x(cost.step_ms), y(mean)
        tip = f"{label}: {number(mean)}, {cost.step_ms:.2f} ms per step, {size(cost.peak)}"
        radius = 4 + 9 * (cost.peak / most) ** 0.5
        marks.append(f"<g><title>{escape(tip)}</title>")
        marks.append(f'<line class=rule x1="{at:.1f}" y1="{up:.1f}" x2="{right + 8}" y2="{line - 4:.1f}"/>')
        marks.append(f'<circle class=seed cx="{at:.1f}" cy="{up:.1f}" r="{radius:.1f}"/>')
        marks.append(f'<circle class=mean cx="{at:.1f}" cy="{up:.1f}" r="3"/>')
        marks.append(f'<text x="{right + 12}" y="{line:.1f}">{escape(short(label, 20))}</text></g>')
    tall = max(height, int(max(lines)) + 12)
    return _chart(width, tall, f"{METRICS[metric].title} on test against milliseconds per step", marks)


def _apart(lines: list[float], room: float) -> list[float]:
    """The same places, moved down until each has its room."""
    found = list(lines)
    least = -room
    for k in sorted(range(len(lines)), key=lines.__getitem__):
        least = found[k] = max(lines[k], least + room)
    return found


def curves(result: Result) -> str:
    """A small chart for each objective: the metric on validation after some epochs, mean over seeds; the others behind."""
    metric = result.task.metric
    lines = {o.label: _looks(o) for o in result.leaderboard() if o.finished and not o.yardstick}
    lines = {label: line for label, line in lines.items() if len(line) > 1}
    if not lines:
        return ""
    width, height, left = 300, 170, 46
    epochs = [epoch for line in lines.values() for epoch, _ in line]
    x = Scale.over([0, *epochs], left, width - 12)
    y = Scale.over([value for line in lines.values() for _, value in line], height - 28, 12)
    frame = [*across(x, 12, height - 28), *upward(y, left, width - 12)]
    drawn = {label: " ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in line) for label, line in lines.items()}
    parts = []
    for label, line in lines.items():
        back = [f'<polyline class=back points="{points}"/>' for other, points in drawn.items() if other != label]
        own = [f'<polyline class=line points="{drawn[label]}"/>']
        own += [f'<circle class=mean cx="{x(e):.1f}" cy="{y(v):.1f}" r="3"/>' for e, v in line]
        words = f"{label}: {METRICS[metric].title} on validation from {line[0][1]:.4f} to {line[-1][1]:.4f}"
        picture = svg(width, height, words, [*frame, *back, *own])
        parts.append(f"<figure><h3>{escape(label)}</h3>{picture}</figure>")
    return "<div class=grid>" + "".join(parts) + "</div>"


def _looks(outcome: Outcome) -> list[tuple[int, float]]:
    gathered: dict[int, list[float]] = {}
    for run in outcome.finished:
        for epoch, value in run.looks:
            gathered.setdefault(epoch, []).append(value)
    return [(epoch, statistics.fmean(values)) for epoch, values in sorted(gathered.items())]


def effects(result: Result, outcome: Outcome) -> str:
    """A small chart for each hyperparameter: the metric on validation of every trial against its value."""
    metric = METRICS[result.task.metric].title
    done = [trial for trial in outcome.trials if trial.value is not None]
    if len(done) < 2:
        return ""
    parts = []
    for name, distribution in outcome.contender.space.items():
        points: list[tuple[Any, float, bool]] = [
            (t.setting[name], t.value, t is outcome.best)
            for t in done
            if t.value is not None and t.setting.get(name) is not None
        ]
        if points:
            parts.append(_effect(name, points, bool(getattr(distribution, "log", False)), metric))
    return "<div class=grid>" + "".join(parts) + "</div>" if parts else ""


def _effect(name: str, points: list[tuple[Any, float, bool]], log: bool, metric: str) -> str:
    width, height, left = 300, 170, 52
    y = Scale.over([value for _, value, _ in points], height - 28, 12)
    if all(isinstance(at, (int, float)) and not isinstance(at, bool) for at, _, _ in points):
        x = Scale.over([at for at, _, _ in points], left + 6, width - 20, log and all(at > 0 for at, _, _ in points))
        frame = across(x, 12, height - 28)
        places = [x(at) for at, _, _ in points]
    else:
        kinds = sorted({str(at) for at, _, _ in points})
        room = (width - 20 - left) / len(kinds)
        middle = {kind: left + room * (k + 0.5) for k, kind in enumerate(kinds)}
        frame = []
        for kind in kinds:
            word = escape(short(kind, 14))
            frame.append(f'<text class=soft x="{middle[kind]:.1f}" y="{height - 12}" text-anchor="middle">{word}</text>')
        places = [middle[str(at)] for at, _, _ in points]
    marks = [*frame, *upward(y, left, width - 12)]
    for place, (at, value, best) in sorted(zip(places, points, strict=True), key=lambda pair: pair[1][2]):
        kind, radius = ("hollow", 6) if best else ("mean", 4)
        shown = f"{at:.4g}" if isinstance(at, float) else str(at)
        marks.append(
            f'<circle class={kind} cx="{place:.1f}" cy="{y(value):.1f}" r="{radius}">'
            f"<title>{escape(name)} = {escape(shown)}: {value:.4f}</title></circle>"
        )
    chosen = next((at for at, _, best in points if best), None)
    shown = f"{chosen:.4g}" if isinstance(chosen, float) else str(chosen)
    words = f"{metric} on validation of {len(points)} trials against {name}; chosen {shown}"
    picture = svg(width, height, words, marks)
    return f"<figure><h3>{escape(name)}</h3>{picture}<figcaption>chosen: {escape(shown)}</figcaption></figure>"
