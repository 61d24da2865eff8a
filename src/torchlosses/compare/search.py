"""Tuning one objective: its learning rate and its own search ranges, by Optuna, on validation."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import optuna

from torchlosses.compare.objectives import Objective
from torchlosses.compare.tasks import Task
from torchlosses.compare.train import RATE, Failed, fit, judge
from torchlosses.hyperparameters import Hyper

DEFAULT_RATE = 3e-3
RATES = (1e-4, 3e-2)


@dataclass(frozen=True)
class Trial:
    """One setting tried: its value on validation, or the reason why it has none."""

    index: int
    setting: dict[str, Any]
    value: float | None
    reason: str | None
    seconds: float


def derive(seed: int, *names: object) -> int:
    """A seed of its own for each use, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr((seed, *names)).encode()).digest()[:4], "big")


class Search:
    """The trials of one objective. The first is the objective's own defaults; Optuna's TPE chooses the others."""

    def __init__(self, task: Task, objective: Objective, *, seed: int, epochs: int, trials: int) -> None:
        self.task, self.objective, self.seed, self.epochs = task, objective, seed, epochs
        self.trials: list[Trial] = []
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(
            seed=derive(seed, "search", objective.label), n_startup_trials=max(3, trials // 3)
        )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._ranges: dict[str, optuna.distributions.BaseDistribution] = {
            RATE: optuna.distributions.FloatDistribution(*RATES, log=True),
            **{name: _distribution(hyper) for name, hyper in objective.searched.items()},
        }

    def step(self, deadline: float) -> Trial:
        """Runs the next trial; a failed one is kept with its reason."""
        index = len(self.trials)
        asked = None
        if index == 0:
            setting = {RATE: DEFAULT_RATE, **self.objective.defaults()}
        else:
            asked = self._study.ask(self._ranges)
            setting = dict(asked.params)
        begin = time.perf_counter()
        value: float | None = None
        reason: str | None = None
        try:
            # Seeds follow the index, not the objective: equal initial weights and data order for all.
            fitted = fit(
                self.task,
                self.objective,
                setting,
                seed=derive(self.seed, "trial", index),
                epochs=self.epochs,
                deadline=deadline,
            )
            value = judge(self.task, self.objective, fitted, "validation")[self.task.metric]
        except Failed as problem:
            reason = str(problem)
        if asked is not None:
            state = optuna.trial.TrialState.FAIL if value is None else None
            self._study.tell(asked, value, state=state)
        elif value is not None and all(_holds(r, setting[n]) for n, r in self._ranges.items()):
            self._study.add_trial(optuna.trial.create_trial(params=setting, distributions=self._ranges, value=value))
        trial = Trial(index, setting, value, reason, time.perf_counter() - begin)
        self.trials.append(trial)
        return trial

    def best(self, rounds: int) -> Trial | None:
        """The best of the first ``rounds`` trials, the earliest of equals; None where all failed."""
        done = [trial for trial in self.trials[:rounds] if trial.value is not None]
        return max(done, key=lambda trial: trial.value or 0.0, default=None)


def _holds(distribution: optuna.distributions.BaseDistribution, value: Any) -> bool:
    """Whether a default lies in the range searched; one outside is tried, but the sampler cannot be told of it."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (TypeError, ValueError):
        return False


def _distribution(hyper: Hyper) -> optuna.distributions.BaseDistribution:
    search = hyper.search
    assert search is not None
    if search.choices:
        return optuna.distributions.CategoricalDistribution(search.choices)
    if hyper.kind == "integer":
        return optuna.distributions.IntDistribution(int(search.low), int(search.high), log=search.log)
    return optuna.distributions.FloatDistribution(search.low, search.high, log=search.log)
