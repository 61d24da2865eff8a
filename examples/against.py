"""A finished comparison as a Markdown table, every objective against one that you name.

    python examples/against.py torchlosses-digits [CrossEntropy]

The report tests against the objective best on validation; papers claim to beat a baseline, which is the question here.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

from torchlosses.compare.metrics import METRICS
from torchlosses.compare.options import Options
from torchlosses.compare.results import Outcome, Result
from torchlosses.compare.statistics import against
from torchlosses.compare.study import Study


def finished(folder: Path) -> Result:
    """The results that a directory keeps, with the score of every example."""
    kept = json.loads((folder / "results.json").read_text())
    known = {field.name for field in fields(Options)}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in kept["options"].items() if name in known}
    options = Options(**{**given, "out": str(folder)})
    study = Study(options)
    study.measure()
    study.open(folder)
    return study.result("finished", 0.0)


def table(result: Result, baseline: str) -> str:
    """Mean and interval of each, and its difference from the baseline; best first."""
    metric = result.task.metric
    done = [o for o in result.leaderboard() if o.finished]
    reference = next((o for o in done if o.label == baseline), None)
    if reference is None:
        raise SystemExit(f"{baseline!r} finished nothing here; there are {', '.join(o.label for o in done)}")
    others = [o for o in done if o is not reference]
    seeds = sorted(set.intersection(*({run.seed for run in o.finished} for o in done)))

    def scores(outcome: Outcome):  # (seeds, examples)
        return outcome.scores(metric, seeds)

    found = dict(zip((o.label for o in others), against(scores(reference), [scores(o) for o in others], 0), strict=True))
    lines = [
        f"`{result.options.command}`",
        "",
        f"| objective | {METRICS[metric].title} | 95% interval | less {baseline} | p (Holm) | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for outcome in done:
        around, difference = result.intervals[outcome.label][metric], found.get(outcome.label)
        line = f"| {outcome.label} | {around.mean:.3f} | {around.low:.3f} to {around.high:.3f} |"
        if difference is None:
            lines.append(f"{line} | | |")
        else:
            word = ("better" if difference.interval.mean > 0 else "worse") if difference.shown else ""
            lines.append(f"{line} {difference.interval.mean:+.3f} | {difference.adjusted:.3g} | {word} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    print(table(finished(Path(sys.argv[1])), sys.argv[2] if len(sys.argv) == 3 else "CrossEntropy"))
