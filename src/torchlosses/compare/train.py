"""One training: an encoder, an objective, a setting, a seed, a fixed number of steps."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torchlosses.compare.devices import Device
from torchlosses.compare.encoder import Model
from torchlosses.compare.objectives import Objective
from torchlosses.compare.tasks.base import Output, Task
from torchlosses.loss import Loss

RATE = "learning_rate"
DEFAULT_RATE = 3e-3
RATES = (1e-4, 3e-2)
CHECKS = 6  # how often a training is looked at on validation


class Failed(Exception):
    """The training gave no usable model; the message says why."""


class Unfit(Failed):
    """The objective cannot be used on this task, whatever the setting."""


class OutOfTime(Exception):
    """The time limit came before the end of the training."""


Watch = Callable[[int, float], None]  # epochs done, metric on validation; may raise to end the training


@dataclass(frozen=True)
class Fit:
    """A trained model with its objective; the median time of a step; the mean loss of each epoch."""

    model: Model
    loss: Loss
    step_ms: float
    curve: tuple[float, ...]


def checkpoints(epochs: int) -> tuple[int, ...]:
    """After which epochs a training is looked at; the last is the end of it.

    >>> checkpoints(30), checkpoints(2)
    ((5, 10, 15, 20, 25, 30), (1, 2))
    """
    return tuple(sorted({math.ceil(epochs * k / CHECKS) for k in range(1, CHECKS + 1)}))


def fit(
    task: Task,
    objective: Objective,
    setting: Mapping[str, Any],
    *,
    seed: int,
    epochs: int,
    deadline: float = math.inf,
    max_steps: float = math.inf,
    watch: Watch | None = None,
    device: Device | None = None,
) -> Fit:
    """Trains from the same initial towers and in the same order of the data for every objective of one seed.

    ``setting`` holds the learning rate and the objective's searched hyperparameters. AdamW, the rate falling to 0 along
    a half cosine. Learnable parameters of the objective are trained with the model.
    """
    hypers = {name: value for name, value in setting.items() if name != RATE}
    card = objective.entry.card
    device = device or Device()
    looks = checkpoints(epochs) if watch is not None else ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.model(card)
        try:
            loss = objective.build(hypers, task.facts)
            task.check(loss)
        except Exception as problem:
            raise Unfit(str(problem)) from problem
        optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=setting[RATE])
        total = epochs * task.steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step / total, 1)))
        )
        model, optimizer = device.place(model, loss, optimizer)
        order = torch.Generator().manual_seed(seed)
        times: list[float] = []
        curve: list[float] = []
        model.train()
        loss.train()
        for epoch in range(1, epochs + 1):
            values: list[float] = []
            for rows in task.epoch(order):
                begin = time.perf_counter()
                if begin > deadline:
                    raise OutOfTime
                optimizer.zero_grad()
                try:
                    with device.autocast():
                        value = task.value(model, loss, card, rows.to(device.target))
                    values.append(value.item())
                    if not math.isfinite(values[-1]):
                        raise Failed(f"the loss became {values[-1]} at step {len(times) + 1} of {total}")
                    device.backward(value)
                except Failed:
                    raise
                except Exception as problem:  # a rule, a user's own among them, may fail in any way
                    raise Unfit(f"{type(problem).__name__}: {problem}") from problem
                optimizer.step()
                schedule.step()
                times.append(1000 * (time.perf_counter() - begin))
                if len(times) >= max_steps:
                    return Fit(model, loss, statistics.median(times), tuple(curve))
            curve.append(statistics.fmean(values))
            if watch is not None and epoch in looks:
                fitted = Fit(model, loss, statistics.median(times), tuple(curve))
                watch(
                    epoch, task.judge("validation", output(task, objective, fitted, "validation")).mean(task.metric) or 0.0
                )
                model.train()
                loss.train()
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise Failed("the model's weights are not finite after training")
    return Fit(model, loss, statistics.median(times), tuple(curve))


def output(task: Task, objective: Objective, fitted: Fit, part: str) -> Output:
    """What a trained model says of 'validation' or 'test'."""
    fitted.model.eval()
    fitted.loss.eval()
    try:
        with torch.no_grad():
            return task.predict(fitted.model, fitted.loss, objective.entry.card, part)
    except Exception as problem:
        raise Unfit(f"{type(problem).__name__}: {problem}") from problem
