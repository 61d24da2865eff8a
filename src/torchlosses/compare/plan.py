"""What will be done: contenders, steps, and the time that it will take."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from torchlosses.compare.contenders import Contender, Trainee
from torchlosses.compare.data import load
from torchlosses.compare.devices import Device
from torchlosses.compare.encoder import maker, sentences
from torchlosses.compare.objectives import Objective, chosen
from torchlosses.compare.options import Options
from torchlosses.compare.refusal import Refusal
from torchlosses.compare.seeds import derive
from torchlosses.compare.tasks import TASKS, Classification, Retrieval
from torchlosses.compare.tasks.base import Task
from torchlosses.compare.train import DEFAULT_RATE, RATE, Failed, Unfit, fit, output
from torchlosses.compare.yardsticks import yardstick

TIMING_STEPS = 30


def task_of(options: Options) -> Task:
    """The task with its data, checked."""
    make = maker(options.encoder)
    data = load(options, sentences(options.encoder))
    if options.encoder.startswith("text:") and not data.texts:
        raise Refusal("--encoder text: needs a text column: --text COLUMN, or --left and --right columns of text")
    if options.task != "classification" and (options.noise or options.imbalance > 1):
        raise Refusal(f"--noise and --imbalance: they are for classification, not {options.task}")
    if options.task != "retrieval" and options.unseen:
        raise Refusal(f"--unseen: it is for retrieval, not {options.task}")
    if options.task == "classification":
        return Classification(data, options.seed, make, options.noise, options.imbalance)
    if options.task == "retrieval":
        return Retrieval(data, options.seed, make, options.unseen)
    kind = TASKS[options.task]
    return kind(data, options.seed, make)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Budget:
    """What the run will cost: trainings and steps known, seconds measured on a few steps of each objective."""

    contenders: int
    trials: int
    seeds: int
    steps: int
    seconds: float

    @property
    def trainings(self) -> int:
        return self.contenders * (self.trials + self.seeds)


def usable(task: Task, objectives: list[Objective], options: Options, device: Device) -> tuple[list[Contender], Budget]:
    """Runs a few steps of each objective; says which take part, and what all of it will take.

    Refuses what the user named and cannot be used; leaves out, with a note on the task, other such objectives.
    """
    found: list[Contender] = []
    seconds = 0.0
    for objective in objectives:
        begin = time.perf_counter()
        try:
            seconds += _timing(task, objective, options, device)
        except Unfit as problem:
            if objective.asked:
                raise Refusal(f"--loss {objective.label}: {problem}") from None
            task.notes.append(f"{objective.label} left out: {problem}")
            continue
        except Failed:  # a matter of the setting; the trials will tell
            seconds += time.perf_counter() - begin
        found.append(Trainee(objective, device))
    if not found:
        raise Refusal(f"--loss: no objective can be used for {options.task}")
    beside = yardstick(task) if options.yardstick else None
    if beside is not None:
        begin = time.perf_counter()
        beside.train(task, beside.defaults(), seed=0, epochs=1)
        seconds += time.perf_counter() - begin
        found.append(beside)
    steps = options.epochs * task.steps
    seconds *= options.trials + options.seeds
    return found, Budget(len(found), options.trials, options.seeds, steps, seconds + 4 + 0.7 * len(found))


def _timing(task: Task, objective: Objective, options: Options, device: Device) -> float:
    """Seconds of one training and its evaluations, from a few steps."""
    setting = {RATE: DEFAULT_RATE, **objective.defaults()}
    fitted = fit(
        task,
        objective,
        setting,
        seed=derive(options.seed, "timing"),
        epochs=max(1, math.ceil(TIMING_STEPS / task.steps)),
        max_steps=TIMING_STEPS,
        device=device,
    )

    def judged() -> float:
        begin = time.perf_counter()
        task.judge("validation", output(task, objective, fitted, "validation"))
        return time.perf_counter() - begin

    judged()  # the first call also loads what it needs
    return fitted.step_ms / 1000 * task.steps * options.epochs + 7 * judged()


def objectives_of(options: Options) -> list[Objective]:
    return chosen(options.task, options.losses)
