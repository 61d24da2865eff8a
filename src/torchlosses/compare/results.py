"""What a run found, and what may be said of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from torchlosses.compare.contenders import Contender, Trainee
from torchlosses.compare.cost import Cost
from torchlosses.compare.environment import environment
from torchlosses.compare.final import Run
from torchlosses.compare.metrics import METRICS
from torchlosses.compare.options import Options
from torchlosses.compare.search import Trial
from torchlosses.compare.statistics import Difference, Interval, Scores, against, interval
from torchlosses.compare.tasks.base import Task


@dataclass
class Outcome:
    """What came of one contender."""

    contender: Contender
    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None
    runs: list[Run] = field(default_factory=list)
    cost: Cost | None = None

    @property
    def label(self) -> str:
        return self.contender.label

    @property
    def yardstick(self) -> bool:
        return not isinstance(self.contender, Trainee)

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.reason is None]

    @property
    def failed(self) -> int:
        """Trials and trainings that failed."""
        reasons = [t.reason for t in self.trials] + [r.reason for r in self.runs]
        return len(reasons) - reasons.count(None)

    @property
    def failures(self) -> list[str]:
        """Why trials and trainings failed, each reason once with its count."""
        reasons = [t.reason for t in self.trials if t.reason] + [r.reason for r in self.runs if r.reason]
        return [f"{reason} ({reasons.count(reason)}x)" for reason in dict.fromkeys(reasons)]

    def values(self, metric: str, part: str = "test") -> list[float]:
        """The metric of each seed, where it has one."""
        found = [getattr(run, part).get(metric) for run in self.finished]
        return [value for value in found if value is not None]

    def mean(self, metric: str, part: str = "test") -> float | None:
        values = self.values(metric, part)
        return statistics.fmean(values) if values else None

    def spread(self, metric: str) -> float | None:
        """Standard deviation over seeds."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None

    def scores(self, metric: str, seeds: Sequence[int] | None = None) -> Scores | None:
        """(seeds, examples) of a metric that examples have."""
        runs = {run.seed: run.each[metric] for run in self.finished if metric in run.each}
        chosen = [runs[seed] for seed in (runs if seeds is None else seeds)]
        return np.stack(chosen) if chosen else None


@dataclass
class Result:
    """The results so far; ``ended`` says how the run ended."""

    options: Options
    task: Task
    outcomes: list[Outcome]
    notes: list[str]
    rounds: int = 0
    seconds: float = 0.0
    ended: str = "running"

    def leaderboard(self) -> list[Outcome]:
        """Best mean on test first, those without one last."""
        metric = self.task.metric

        def key(outcome: Outcome) -> float:
            mean = outcome.mean(metric)
            return math.inf if mean is None else -mean

        return sorted(self.outcomes, key=key)

    @property
    def chosen(self) -> Outcome | None:
        """The objective that validation prefers: it may be named best without having looked at test."""
        metric = self.task.metric
        done = [o for o in self.outcomes if o.finished and not o.yardstick]
        return max(done, key=lambda o: o.mean(metric, "validation") or 0.0, default=None)

    @cached_property
    def intervals(self) -> dict[str, dict[str, Interval]]:
        """95% intervals of each contender and metric that examples have."""
        found: dict[str, dict[str, Interval]] = {}
        for outcome in self.outcomes:
            scored = {name: outcome.scores(name) for name in self.task.counted}
            found[outcome.label] = {n: interval(s, self.options.seed) for n, s in scored.items() if s is not None}
        return found

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """Every other contender less the chosen objective, in the main metric, on the seeds that both finished."""
        reference, metric = self.chosen, self.task.metric
        if reference is None:
            return {}
        others = [o for o in self.outcomes if o is not reference and o.finished]
        ours = {run.seed for run in reference.finished}
        shared = sorted(ours.intersection(*({run.seed for run in o.finished} for o in others)))
        if not shared or not others:
            return {}
        base = reference.scores(metric, shared)
        scored = [o.scores(metric, shared) for o in others]
        assert base is not None
        found = against(base, [s for s in scored if s is not None], self.options.seed)
        return {o.label: difference for o, difference in zip(others, found, strict=True)}

    @property
    def verdict(self) -> str:
        """What the tests say, in words."""
        found, reference = self.differences, self.chosen
        if reference is None or not found:
            return "Nothing to compare: fewer than two contenders finished a training."
        title = METRICS[self.task.metric].title
        worse = [label for label, d in found.items() if d.shown and d.interval.mean < 0]
        better = [label for label, d in found.items() if d.shown and d.interval.mean > 0]
        level = [label for label, d in found.items() if not d.shown]
        parts = []
        if better:
            parts.append(f"Better than it on test in {title}: {', '.join(better)}.")
        if worse:
            parts.append(f"Worse than it on test in {title}: {', '.join(worse)}.")
        if level:
            names = "any other" if len(level) == len(found) else ", ".join(level)
            parts.append(f"No difference shown from {names}.")
        return " ".join(parts)

    @property
    def saved(self) -> float:
        """The share of the trials' epochs that pruning saved."""
        trials = [t for o in self.outcomes if not o.yardstick for t in o.trials if t.reason is None]
        whole = self.options.epochs * len(trials)
        return 1 - sum(t.epochs for t in trials) / whole if whole else 0.0

    def as_json(self) -> dict[str, Any]:
        """Everything measured, in plain types."""
        task, best = self.task, self.chosen
        return {
            "format": 2,
            "study": self.options.identity(task.data.fingerprint),
            "command": self.options.command,
            "options": {k: v for k, v in asdict(self.options).items() if k != "storage"},
            "data": task.described(),
            "metric": task.metric,
            "metrics": {name: METRICS[name].meaning for name in task.metrics},
            "steps_per_training": self.options.epochs * task.steps,
            "batch": task.batch,
            "rounds": self.rounds,
            "steps_saved_by_pruning": self.saved,
            "ended": self.ended,
            "seconds": self.seconds,
            "best_on_validation": None if best is None else best.label,
            "verdict": self.verdict,
            "objectives": [self._outcome(outcome) for outcome in self.leaderboard()],
            "notes": self.notes,
            "environment": environment(),
        }

    def _outcome(self, outcome: Outcome) -> dict[str, Any]:
        best, difference = outcome.best, self.differences.get(outcome.label)
        test = {}
        for name in self.task.metrics:
            around = self.intervals[outcome.label].get(name)
            ends = None if around is None else [around.low, around.high]
            test[name] = {"mean": outcome.mean(name), "std": outcome.spread(name), "interval": ends}
        found = {
            "label": outcome.label,
            "setting": None if best is None else best.setting,
            "validation": {name: outcome.mean(name, "validation") for name in self.task.metrics},
            "test": test,
            "against_best": None if difference is None else asdict(difference),
            "cost": None if outcome.cost is None else asdict(outcome.cost),
            "runs": [{k: v for k, v in vars(run).items() if k != "each"} for run in outcome.runs],
            "trials": [asdict(trial) for trial in outcome.trials],
            "failures": outcome.failures,
        }
        if isinstance(outcome.contender, Trainee):
            objective = outcome.contender.objective
            found |= {"loss": objective.entry.name, "fixed": dict(objective.fixed)}
        return found
