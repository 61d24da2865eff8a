"""Tuning one contender on validation: one trial at a time, each from what all finished trials before it found."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from torchlosses.compare.contenders import Contender, Trained
from torchlosses.compare.seeds import derive
from torchlosses.compare.store import Book, Unit
from torchlosses.compare.tasks.base import Task
from torchlosses.compare.train import Failed


@dataclass(frozen=True)
class Trial:
    """One setting tried: its value on validation, or the reason why it has none; ``epochs`` done of all."""

    index: int
    setting: dict[str, Any]
    value: float | None
    reason: str | None
    pruned: bool
    epochs: int
    seconds: float


class Pruned(Exception):
    """The trial is worse than the median of those before it."""


class Search:
    """The trials of one contender. The first is its own defaults; Optuna's TPE chooses the others.

    What trial k tries follows from (seed, label, k) and the finished trials, not from the process that runs it.
    """

    def __init__(self, task: Task, contender: Contender, book: Book, *, seed: int, epochs: int, trials: int) -> None:
        self.task, self.contender, self.book = task, contender, book
        self.seed, self.epochs, self.planned = seed, epochs, trials
        self._startup = max(3, trials // 3)

    @property
    def label(self) -> str:
        return self.contender.label

    def step(self, index: int, deadline: float) -> bool:
        """Runs trial ``index`` unless it is finished or another worker has it; says whether it ran."""
        study = self.book.study
        study.sampler = optuna.samplers.TPESampler(
            seed=derive(self.seed, "search", self.label, index),
            n_startup_trials=self._startup,
            multivariate=False,
            constant_liar=False,  # what runs beside this is not to change it
        )
        study.pruner = optuna.pruners.MedianPruner(
            n_startup_trials=self._startup, n_warmup_steps=math.ceil(self.epochs / 3), n_min_trials=self._startup
        )
        space = self.contender.space
        defaults = self.contender.defaults() if index == 0 else None
        # A default outside the range is tried, but the sampler cannot be told of it.
        told = None if defaults is None else {n: defaults[n] for n, r in space.items() if _holds(r, defaults[n])}
        unit = self.book.claim(index, params=told)
        if unit is None:
            return False
        try:
            setting = {n: unit.trial._suggest(n, r) for n, r in space.items() if told is None or n in told}
            self._run(unit, index, setting if defaults is None else defaults, deadline)
        except BaseException:
            unit.leave()
            raise
        return True

    def _run(self, unit: Unit, index: int, setting: Mapping[str, Any], deadline: float) -> None:
        begin = time.perf_counter()
        value: float | None = None
        reason: str | None = None
        pruned = False
        done = 0

        def watch(epoch: int, metric: float) -> None:
            nonlocal done
            done = epoch
            unit.beat()
            unit.trial.report(metric, epoch)
            if epoch < self.epochs and unit.trial.should_prune():
                raise Pruned

        try:
            # Seeds follow the index, not the contender: equal initial weights and data order for all.
            trained = self.contender.train(
                self.task,
                setting,
                seed=derive(self.seed, "trial", index),
                epochs=self.epochs,
                deadline=deadline,
                watch=watch,
            )
            value = _metric(self.task, trained)
            done = self.epochs
        except Failed as problem:
            reason = str(problem)
        except Pruned:
            pruned = True
        seconds = time.perf_counter() - begin
        record = {"setting": dict(setting), "reason": reason, "epochs": done, "seconds": seconds}
        unit.finish(record, value, pruned=pruned)

    def trials(self) -> list[Trial]:
        """The finished trials up to the first that is missing."""
        found = self.book.finished()
        kept = []
        for index in range(self.planned):
            if index not in found:
                break
            kept.append(_read(index, found[index]))
        return kept


def best(trials: list[Trial]) -> Trial | None:
    """The best of them, the earliest of equals; None where all failed."""
    done = [trial for trial in trials if trial.value is not None]
    return max(done, key=lambda trial: trial.value or 0.0, default=None)


def _read(index: int, trial: FrozenTrial) -> Trial:
    record = trial.user_attrs["record"]
    return Trial(
        index,
        record["setting"],
        trial.value if trial.state is TrialState.COMPLETE else None,
        record["reason"],
        trial.state is TrialState.PRUNED,
        record["epochs"],
        record["seconds"],
    )


def _metric(task: Task, trained: Trained) -> float:
    value = task.judge("validation", trained.output("validation")).mean(task.metric)
    if value is None or not math.isfinite(value):
        raise Failed(f"{task.metric} on validation is {value}")
    return value


def _holds(distribution: optuna.distributions.BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (TypeError, ValueError):
        return False
