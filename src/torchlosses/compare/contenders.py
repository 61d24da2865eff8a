"""Who takes part: an objective that trains the encoder, or a yardstick. All are tuned and judged alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import optuna

from torchlosses.compare.devices import Device
from torchlosses.compare.objectives import Objective
from torchlosses.compare.tasks.base import Output, Task
from torchlosses.compare.train import DEFAULT_RATE, RATE, RATES, Watch, fit, output
from torchlosses.hyperparameters import Hyper

Space = dict[str, optuna.distributions.BaseDistribution]


@dataclass(frozen=True)
class Trained:
    """What a training gave: its output on a part, and the mean training loss of each epoch."""

    output: Callable[[str], Output]
    curve: tuple[float, ...] = ()


class Contender(Protocol):
    """What the search and the final trainings need to know."""

    @property
    def label(self) -> str: ...

    @property
    def space(self) -> Space:
        """What is searched."""
        ...

    def defaults(self) -> dict[str, Any]:
        """The setting of the first trial."""
        ...

    def train(
        self,
        task: Task,
        setting: Mapping[str, Any],
        *,
        seed: int,
        epochs: int,
        deadline: float = math.inf,
        watch: Watch | None = None,
    ) -> Trained: ...


@dataclass(frozen=True)
class Trainee:
    """An objective with the encoder that it trains."""

    objective: Objective
    device: Device

    @property
    def label(self) -> str:
        return self.objective.label

    @property
    def space(self) -> Space:
        rate = optuna.distributions.FloatDistribution(*RATES, log=True)
        return {RATE: rate, **{name: _distribution(hyper) for name, hyper in self.objective.searched.items()}}

    def defaults(self) -> dict[str, Any]:
        return {RATE: DEFAULT_RATE, **self.objective.defaults()}

    def train(
        self,
        task: Task,
        setting: Mapping[str, Any],
        *,
        seed: int,
        epochs: int,
        deadline: float = math.inf,
        watch: Watch | None = None,
    ) -> Trained:
        fitted = fit(
            task,
            self.objective,
            setting,
            seed=seed,
            epochs=epochs,
            deadline=deadline,
            watch=watch,
            device=self.device,
        )
        return Trained(lambda part: output(task, self.objective, fitted, part), fitted.curve)


def _distribution(hyper: Hyper) -> optuna.distributions.BaseDistribution:
    search = hyper.search
    assert search is not None
    if search.choices:
        return optuna.distributions.CategoricalDistribution(search.choices)
    if hyper.kind == "integer":
        return optuna.distributions.IntDistribution(int(search.low), int(search.high), log=search.log)
    return optuna.distributions.FloatDistribution(search.low, search.high, log=search.log)
