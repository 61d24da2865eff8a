"""The whole run: what is planned, what is done, and the results."""

from __future__ import annotations

import math
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import torch

import torchlosses
from torchlosses.compare import data as inputs
from torchlosses.compare.objectives import Objective, chosen
from torchlosses.compare.refusal import Refusal
from torchlosses.compare.search import DEFAULT_RATE, Search, Trial, derive
from torchlosses.compare.tasks import BATCH, TASKS, Task
from torchlosses.compare.train import RATE, Failed, OutOfTime, Unfit, fit, judge

TIMING_STEPS = 30


@dataclass(frozen=True)
class Options:
    """What the user asked for; ``time_limit`` in minutes."""

    data: str = "digits"
    task: str = "classification"
    losses: tuple[str, ...] = ()
    trials: int = 12
    seeds: int = 5
    epochs: int = 30
    out: str | None = None
    seed: int = 0
    time_limit: float | None = None

    @property
    def command(self) -> str:
        """The command line that asks for the same."""
        words = ["torchlosses", "compare", self.data, "--task", self.task]
        for loss in self.losses:
            words += ["--loss", loss]
        for name in ("trials", "seeds", "epochs", "seed"):
            words += [f"--{name}", str(getattr(self, name))]
        if self.time_limit is not None:
            words += ["--time-limit", f"{self.time_limit:g}"]
        return shlex.join(words)


@dataclass(frozen=True)
class Run:
    """One training of the chosen setting; ``reason`` says why there are no metrics."""

    seed: int
    validation: dict[str, float]
    test: dict[str, float]
    step_ms: float | None
    curve: tuple[float, ...]
    reason: str | None = None


@dataclass
class Outcome:
    """What came of one objective."""

    objective: Objective
    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None
    runs: list[Run] = field(default_factory=list)

    @property
    def label(self) -> str:
        return self.objective.label

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

    def mean(self, metric: str) -> float | None:
        values = [run.test[metric] for run in self.finished]
        return statistics.fmean(values) if values else None

    def spread(self, metric: str) -> float | None:
        """Standard deviation over seeds."""
        values = [run.test[metric] for run in self.finished]
        return statistics.stdev(values) if len(values) > 1 else None

    def validated(self, metric: str) -> float | None:
        """Mean over seeds on validation."""
        values = [run.validation[metric] for run in self.finished]
        return statistics.fmean(values) if values else None

    @property
    def step_ms(self) -> float | None:
        values = [run.step_ms for run in self.finished if run.step_ms is not None]
        return statistics.median(values) if values else None


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
        done = [o for o in self.outcomes if o.finished]
        return max(done, key=lambda o: statistics.fmean(r.validation[metric] for r in o.finished), default=None)

    def as_json(self) -> dict[str, Any]:
        """Everything measured, in plain types."""
        task = self.task
        objectives = []
        for outcome in self.leaderboard():
            best = outcome.best
            objectives.append(
                {
                    "label": outcome.label,
                    "loss": outcome.objective.entry.name,
                    "fixed": dict(outcome.objective.fixed),
                    "setting": None if best is None else best.setting,
                    "validation": {name: outcome.validated(name) for name in task.metrics},
                    "test": {name: {"mean": outcome.mean(name), "std": outcome.spread(name)} for name in task.metrics},
                    "step_ms": outcome.step_ms,
                    "runs": [asdict(run) for run in outcome.runs],
                    "trials": [asdict(trial) for trial in outcome.trials],
                    "failures": outcome.failures,
                }
            )
        best_outcome = self.chosen
        return {
            "format": 1,
            "study": identity(self.options, task.data),
            "command": self.options.command,
            "options": asdict(self.options),
            "data": {
                "name": task.data.name,
                "examples": len(task.data.x),
                "features": task.data.x.shape[1],
                "classes": len(task.data.labels),
                "fingerprint": task.data.fingerprint,
                "split": task.split.sizes(),
            },
            "metric": task.metric,
            "steps_per_training": self.options.epochs * task.steps,
            "batch": min(BATCH, len(task.train)),
            "rounds": self.rounds,
            "ended": self.ended,
            "seconds": self.seconds,
            "best_on_validation": None if best_outcome is None else best_outcome.label,
            "objectives": objectives,
            "notes": self.notes,
            "environment": environment(),
        }


def identity(options: Options, data: inputs.Data) -> dict[str, Any]:
    """What makes two runs the same study: equal identities give equal metrics."""
    return {
        "data": data.fingerprint,
        "task": options.task,
        "losses": list(options.losses),
        "trials": options.trials,
        "seeds": options.seeds,
        "epochs": options.epochs,
        "seed": options.seed,
        "torchlosses": torchlosses.__version__,
    }


def environment() -> dict[str, str]:
    """Versions and machine."""
    packages = ("torch", "numpy", "optuna", "scikit-learn")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
        "torchlosses": torchlosses.__version__,
        **{name: version(name) for name in packages},
    }


@dataclass(frozen=True)
class Budget:
    """What the run will cost: trainings and steps known, seconds measured on a few steps of each objective."""

    objectives: int
    trials: int
    seeds: int
    steps: int
    seconds: float

    @property
    def trainings(self) -> int:
        return self.objectives * (self.trials + self.seeds)


Report = Callable[[str, int], None]  # what is being trained, trainings done


class Study:
    """A plan. Making it checks names, values and data; :meth:`measure` tries each objective; :meth:`run` does it all."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.objectives = chosen(options.task, options.losses)  # cheap checks first
        data = inputs.load(options.data)
        self.task = TASKS[options.task](data, options.seed)
        self.notes: list[str] = []
        self._seconds: dict[str, float] = {}

    def measure(self) -> Budget:
        """Runs a few steps of each objective, and says what all of it will take.

        Refuses what the user named and cannot be used; leaves out, with a note, other such objectives.
        """
        usable = []
        for objective in self.objectives:
            begin = time.perf_counter()
            try:
                self._seconds[objective.label] = self._timing(objective)
            except Unfit as problem:
                if objective.asked:
                    raise Refusal(f"--loss {objective.label}: {problem}") from None
                self.notes.append(f"{objective.label} left out: {problem}")
                continue
            except Failed:  # a matter of the setting; the trials will tell
                self._seconds[objective.label] = time.perf_counter() - begin
            usable.append(objective)
        self.objectives = usable
        if not usable:
            raise Refusal(f"--loss: no objective can be used for {self.options.task}")
        return self.budget

    def _timing(self, objective: Objective) -> float:
        """Seconds of one training and its evaluation, from a few steps."""
        setting = {RATE: DEFAULT_RATE, **objective.defaults()}
        fitted = fit(
            self.task,
            objective,
            setting,
            seed=derive(self.options.seed, "timing"),
            epochs=max(1, math.ceil(TIMING_STEPS / self.task.steps)),
            max_steps=TIMING_STEPS,
        )
        judge(self.task, objective, fitted, "validation")  # the first call also loads what it needs
        begin = time.perf_counter()
        judge(self.task, objective, fitted, "validation")
        judged = time.perf_counter() - begin
        return fitted.step_ms / 1000 * self.task.steps * self.options.epochs + judged

    @property
    def budget(self) -> Budget:
        options = self.options
        return Budget(
            len(self.objectives),
            options.trials,
            options.seeds,
            options.epochs * self.task.steps,
            sum(self._seconds.values()) * (options.trials + options.seeds),
        )

    def run(self, report: Report = lambda label, done: None) -> Result:
        """Tunes and trains every objective, in rounds: one trial of each, then the next.

        A time limit so leaves equal numbers of trials to all; it keeps back the time that the final trainings need.
        """
        options = self.options
        begin = time.monotonic()
        clock = time.perf_counter()
        limit = math.inf if options.time_limit is None else clock + 60 * options.time_limit
        result = Result(options, self.task, [Outcome(o) for o in self.objectives], self.notes)
        searches = [
            Search(self.task, o, seed=options.seed, epochs=options.epochs, trials=options.trials) for o in self.objectives
        ]
        done = 0
        try:
            done = self._tune(searches, result, limit, report)
            self._train(result, limit, report, done)
            result.ended = "finished" if result.rounds == options.trials else "time limit"
        except OutOfTime:
            result.ended = "time limit"
        except KeyboardInterrupt:
            result.ended = "interrupted"
        finally:
            for outcome, search in zip(result.outcomes, searches, strict=True):
                outcome.trials = search.trials[: max(1, result.rounds)]
            result.seconds = time.monotonic() - begin
        if result.ended == "time limit":
            result.notes.append(
                f"the time limit ended the run after {result.rounds} of {options.trials} trials of each objective and "
                f"{sum(len(o.runs) for o in result.outcomes)} of {len(result.outcomes) * options.seeds} final trainings"
            )
        return result

    def _tune(self, searches: Sequence[Search], result: Result, limit: float, report: Report) -> int:
        done = 0
        spent = 0.0
        for index in range(self.options.trials):
            # What final trainings will take, from the trials so far, with a quarter to spare.
            reserve = 1.25 * self.options.seeds * (spent / index if index else 0.0)
            begin = time.perf_counter()
            try:
                for search in searches:
                    report(search.objective.label, done)
                    search.step(limit - reserve)
                    done += 1
            except OutOfTime:
                if result.rounds == 0:
                    raise
                break  # the round is not complete: nobody keeps it
            spent += time.perf_counter() - begin
            result.rounds = index + 1
        for outcome, search in zip(result.outcomes, searches, strict=True):
            outcome.best = search.best(result.rounds)
        return self.options.trials * len(searches)

    def _train(self, result: Result, limit: float, report: Report, done: int) -> None:
        for number in range(self.options.seeds):
            seed = derive(self.options.seed, "final", number)
            for outcome in result.outcomes:
                report(outcome.label, done)
                done += 1
                if outcome.best is not None:
                    outcome.runs.append(self._final(outcome, seed, limit))

    def _final(self, outcome: Outcome, seed: int, limit: float) -> Run:
        assert outcome.best is not None
        try:
            fitted = fit(
                self.task,
                outcome.objective,
                outcome.best.setting,
                seed=seed,
                epochs=self.options.epochs,
                deadline=limit,
            )
            validation = judge(self.task, outcome.objective, fitted, "validation")
            test = judge(self.task, outcome.objective, fitted, "test")
        except Failed as problem:
            return Run(seed, {}, {}, None, (), str(problem))
        return Run(seed, validation, test, fitted.step_ms, fitted.curve)
