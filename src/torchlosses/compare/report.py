"""The directory of a study: study.json (whose it is), results.json, report.html."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from torchlosses.compare.data import Data
from torchlosses.compare.refusal import Refusal
from torchlosses.compare.study import Options, Outcome, Result, identity

METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "map_at_r": "mAP@R",
    "recall_at_1": "R@1",
    "mrr": "MRR",
}


@dataclass(frozen=True)
class Folder:
    """A directory that belongs to one study."""

    path: Path
    study: dict[str, Any]

    @classmethod
    def find(cls, options: Options, data: Data) -> Folder:
        """The directory asked for, or the first free default one. Refuses what belongs to another study."""
        study = identity(options, data)
        if options.out is not None:
            folder = cls(Path(options.out), study)
            if not folder.free:
                raise Refusal(
                    f"--out: {options.out} is not empty and does not belong to this study; choose another directory"
                )
            return folder
        base = f"compare-{data.name}-{options.task}"
        names = itertools.chain([base], (f"{base}-{k}" for k in itertools.count(2)))
        return next(folder for name in names if (folder := cls(Path(name), study)).free)

    @property
    def free(self) -> bool:
        """Whether this study may write here: nothing is there, or this same study wrote it."""
        try:
            if not self.path.exists():
                return True
            if not self.path.is_dir():
                return False
            if not any(self.path.iterdir()):
                return True
            return bool(json.loads((self.path / "study.json").read_text("utf-8")) == self.study)
        except (OSError, ValueError):
            return False

    def claim(self) -> None:
        """Makes the directory and says in it whose it is."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise Refusal(f"--out: cannot write to {self.path}: {problem.strerror}") from None
        self._put("study.json", json.dumps(self.study, indent=1))

    def write(self, result: Result) -> None:
        self._put("results.json", json.dumps(_plain(result.as_json()), indent=1, allow_nan=False))
        self._put("report.html", page(result))

    def _put(self, name: str, text: str) -> None:
        """Whole or not at all: a file is never half written."""
        part = self.path / (name + ".part")
        try:
            part.write_text(text + "\n", "utf-8")
            part.replace(self.path / name)
        except OSError as problem:
            raise Refusal(f"--out: cannot write {self.path / name}: {problem.strerror}") from None


def _plain(value: Any) -> Any:
    """The value for JSON: no infinities (an optional bound may be one), tuples as lists."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def number(value: float | None, digits: int = 4) -> str:
    """A measured number, or a dash where none was measured.

    >>> number(0.98765), number(None)
    ('0.9877', '–')
    """
    return "–" if value is None else f"{value:.{digits}f}"


# --- report.html: one file, nothing from the network, pictures as inline SVG ---------------------------------------

STYLE = """
:root{color-scheme:light dark;--ink:#1a1d21;--soft:#5c6470;--line:#d9dde2;--paper:#fff;--mark:#1f5fbf;--pale:#eef3fb}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a3abb5;--line:#3a4048;--paper:#16181c;--mark:#7fb0ff;
--pale:#212a38}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem}
p{margin:.5rem 0}.soft{color:var(--soft)}.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.3rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;font-weight:600}td.text{text-align:left;white-space:normal}
tr.best{background:var(--pale)}
pre{background:var(--pale);padding:.75rem;overflow-x:auto;border-radius:.4rem}
svg{width:100%;height:auto;font:13px system-ui,sans-serif}svg text{fill:var(--ink)}svg .soft{fill:var(--soft)}
svg .grid{stroke:var(--line)}svg .bar{stroke:var(--mark);stroke-width:2.5}svg .mean{fill:var(--mark)}
svg .seed{fill:var(--mark);opacity:.35}
"""


def page(result: Result) -> str:
    """The report as one HTML page."""
    task = result.task
    best = result.chosen
    parts = [
        f"<h1>{escape(task.data.name)}: {escape(task.name)}</h1>",
        f"<p>{_answer(result, best)}</p>",
        "<h2>Leaderboard</h2>",
        "<p class=soft>On the test split, which nothing else was chosen by: mean ± standard deviation over seeds. "
        "Validation is the mean of the same trainings there. All seeds share one split, so the spread says nothing "
        "about other data.</p>",
        _leaderboard(result, best),
        f"<h2>{METRICS[task.metric]} by objective</h2>",
        _dots(result),
        "<h2>Quality against cost</h2>",
        _scatter(result),
        "<h2>Chosen settings</h2>",
        _settings(result),
    ]
    if best is not None and best.best is not None:
        hypers = {k: v for k, v in best.best.setting.items() if k != "learning_rate"}
        code = f"loss = {best.objective.code(hypers)}\nvalue = {task.call(best.objective.entry.card)}"
        parts += [
            "<h2>Use it</h2>",
            f"<pre tabindex=0><code>import torchlosses\n\n{escape(code)}\nvalue.backward()</code></pre>",
        ]
    failures = [f"{outcome.label}: {reason}" for outcome in result.outcomes for reason in outcome.failures]
    if failures or result.notes:
        parts += ["<h2>Notes</h2>", _items([*result.notes, *(f"failed: {f}" for f in failures)])]
    parts += ["<h2>How it was measured</h2>", _method(result)]
    title = f"{task.data.name}: {task.name} - torchlosses compare"
    return (
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width,initial-scale=1">\n<link rel=icon href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>"
    )


def _answer(result: Result, best: Outcome | None) -> str:
    if best is None:
        return "No objective finished a training."
    metric = result.task.metric
    text = (
        f"Best on validation: <strong>{escape(best.label)}</strong>, on test {METRICS[metric]} "
        f"{number(best.mean(metric))} ± {number(best.spread(metric))} ({len(best.finished)} seeds)."
    )
    if result.ended != "finished":
        text += f" The run ended early ({escape(result.ended)})."
    return text


def _leaderboard(result: Result, best: Outcome | None) -> str:
    metrics = result.task.metrics
    head = ["objective", *(METRICS[m] for m in metrics), "validation", "seeds", "ms per step", "failed"]
    rows = []
    for outcome in result.leaderboard():
        cells = [
            outcome.label,
            *(f"{number(outcome.mean(m))} ± {number(outcome.spread(m))}" for m in metrics),
            number(outcome.validated(metrics[0])),
            str(len(outcome.finished)),
            number(outcome.step_ms, 2),
            str(outcome.failed),
        ]
        mark = " class=best" if outcome is best else ""
        rows.append(f"<tr{mark}>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>")
    return _table(head, rows)


def _settings(result: Result) -> str:
    rows = []
    for outcome in result.leaderboard():
        if outcome.best is None:
            text = "none: every trial failed" if outcome.trials else "none: no trial ended"
        else:
            text = ", ".join(
                f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
                for name, value in outcome.best.setting.items()
            )
        rows.append(f"<tr><td>{escape(outcome.label)}</td><td class=text>{escape(text)}</td></tr>")
    return _table(["objective", "setting"], rows)


def _table(head: Iterable[str], rows: Iterable[str]) -> str:
    cells = "".join(f"<th scope=col>{escape(h)}</th>" for h in head)
    return (
        f"<div class=wide tabindex=0><table><thead><tr>{cells}</tr></thead><tbody>"
        + "".join(rows)
        + "</tbody></table></div>"
    )


def _items(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def _method(result: Result) -> str:
    task, options = result.task, result.options
    sizes = ", ".join(f"{count} {part}" for part, count in task.split.sizes().items())
    facts = [
        f"Data {task.data.name}: {len(task.data.x)} examples, {task.data.x.shape[1]} features, "
        f"{len(task.data.labels)} classes; split into {sizes}.",
        "The same perceptron with the same initial weights, the same order of the data and "
        f"{options.epochs * task.steps} steps for every objective.",
        f"{result.rounds} trials each: the first with the objective's defaults, the others by Optuna's TPE over the "
        f"learning rate and the objective's own ranges; the setting with the best {METRICS[task.metric]} on validation "
        f"was trained with {options.seeds} seeds.",
        "Time per step: median over the steps of these trainings, on one thread.",
        f"Took {result.seconds:.0f} s. Command: {options.command}",
    ]
    versions = result.as_json()["environment"]
    facts.append(", ".join(f"{name} {value}" for name, value in versions.items()))
    return _items(facts)


def _scale(values: list[float]) -> tuple[float, float, list[float]]:
    """A range with round ticks around the values."""
    low, high = min(values), max(values)
    room = max(high - low, 1e-3)
    step = 10 ** math.floor(math.log10(room / 2))
    step *= next(k for k in (1, 2, 5, 10) if room / (step * k) <= 5)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    if high == low:
        high = low + step
    return low, high, [low + k * step for k in range(round((high - low) / step) + 1)]


def _dots(result: Result) -> str:
    """A line for each objective: its seeds, their mean, one standard deviation to both sides."""
    metric = result.task.metric
    shown = [outcome for outcome in result.leaderboard() if outcome.finished]
    if not shown:
        return "<p>Nothing to draw.</p>"
    values = [run.test[metric] for o in shown for run in o.finished]
    values += [(o.mean(metric) or 0.0) + sign * (o.spread(metric) or 0.0) for o in shown for sign in (-1, 1)]
    low, high, ticks = _scale(values)
    left, width, row = 240, 720, 26
    bottom = 20 + row * len(shown)

    def at(value: float) -> float:
        return left + (width - left - 30) * (value - low) / (high - low)

    marks = []
    for tick in ticks:
        marks.append(f'<line class=grid x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="10" y2="{bottom}"/>')
        marks.append(f'<text class=soft x="{at(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:.4g}</text>')
    for place, outcome in enumerate(shown):
        y = 24 + row * place
        mean, spread = outcome.mean(metric) or 0.0, outcome.spread(metric) or 0.0
        label = outcome.label if len(outcome.label) < 34 else outcome.label[:32] + "…"
        tip = f"{outcome.label}: {number(mean)} ± {number(outcome.spread(metric))}"
        marks.append(f'<g><title>{escape(tip)}</title><text x="0" y="{y + 4}">{escape(label)}</text>')
        marks.append(f'<line class=bar x1="{at(mean - spread):.1f}" x2="{at(mean + spread):.1f}" y1="{y}" y2="{y}"/>')
        marks += [f'<circle class=seed cx="{at(run.test[metric]):.1f}" cy="{y}" r="4"/>' for run in outcome.finished]
        marks.append(f'<circle class=mean cx="{at(mean):.1f}" cy="{y}" r="5"/></g>')
    summary = f"{METRICS[metric]} on test of each objective, with one standard deviation over seeds"
    return _svg(width, bottom + 24, summary, marks)


def _scatter(result: Result) -> str:
    """Mean metric against milliseconds per step."""
    metric = result.task.metric
    points = [
        (outcome.step_ms, mean, outcome.label)
        for outcome in result.leaderboard()
        if outcome.step_ms is not None and (mean := outcome.mean(metric)) is not None
    ]
    if not points:
        return "<p>Nothing to draw.</p>"
    x_low, x_high, x_ticks = _scale([0.0, *(x for x, _, _ in points)])
    y_low, y_high, y_ticks = _scale([y for _, y, _ in points])
    width, height, left, bottom = 720, 340, 60, 290

    def across(value: float) -> float:
        return left + (width - left - 110) * (value - x_low) / (x_high - x_low)

    def up(value: float) -> float:
        return bottom - (bottom - 20) * (value - y_low) / (y_high - y_low)

    marks = []
    for tick in x_ticks:
        x = across(tick)
        marks.append(f'<line class=grid x1="{x:.1f}" x2="{x:.1f}" y1="20" y2="{bottom}"/>')
        marks.append(f'<text class=soft x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:.4g}</text>')
    for tick in y_ticks:
        y = up(tick)
        marks.append(f'<line class=grid x1="{left}" x2="{width - 110}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text class=soft x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    marks.append(f'<text class=soft x="{(left + width - 110) / 2}" y="{height - 8}" text-anchor="middle">ms per step</text>')
    taken: list[tuple[float, float]] = []
    for step_ms, mean, label in points:
        x, y = across(step_ms), up(mean)
        line = y + 4
        while any(abs(line - other) < 13 and abs(x - at) < 130 for at, other in taken):
            line += 13  # labels of near points stand below each other
        taken.append((x, line))
        short = label if len(label) < 24 else label[:22] + "…"
        tip = f"{label}: {number(mean)}, {step_ms:.2f} ms per step"
        marks.append(f'<g><title>{escape(tip)}</title><circle class=mean cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        marks.append(f'<text x="{x + 8:.1f}" y="{line:.1f}">{escape(short)}</text></g>')
    lowest = max(line for _, line in taken)
    return _svg(width, max(height, int(lowest) + 10), f"{METRICS[metric]} on test against ms per step", marks)


def _svg(width: int, height: int, summary: str, marks: Iterable[str]) -> str:
    return (
        f'<svg role=img aria-label="{escape(summary)}" viewBox="0 0 {width} {height}">'
        f"<title>{escape(summary)}</title>" + "".join(marks) + "</svg>"
    )
