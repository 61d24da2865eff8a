"""The final trainings: the chosen setting with several seeds, judged on test."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchlosses.compare.contenders import Contender
from torchlosses.compare.metrics import Judged, Values
from torchlosses.compare.search import Trial
from torchlosses.compare.seeds import derive
from torchlosses.compare.store import Book
from torchlosses.compare.tasks.base import Task
from torchlosses.compare.train import Failed


@dataclass(frozen=True)
class Run:
    """One training of the chosen setting; ``reason`` says why there are no metrics.

    ``each`` holds the metrics of every test example; ``curve`` the mean training loss of each epoch; ``looks`` the metric on
    validation after some epochs.
    """

    seed: int
    validation: dict[str, float | None]
    test: dict[str, float | None]
    each: dict[str, Values]
    curve: tuple[float, ...]
    looks: tuple[tuple[int, float], ...]
    reason: str | None = None


def train(
    task: Task, contender: Contender, book: Book, chosen: Trial, number: int, *, seed: int, epochs: int, deadline: float
) -> bool:
    """Final training ``number``, unless it is finished or another worker has it; says whether it ran."""
    unit = book.claim(number, mark=mark(chosen))
    if unit is None:
        return False
    looks: list[tuple[int, float]] = []

    def watch(epoch: int, metric: float) -> None:
        unit.beat()
        looks.append((epoch, metric))

    own = derive(seed, "final", number)
    record: dict[str, Any] = {"seed": own, "reason": None}
    value = None
    try:
        try:
            trained = contender.train(task, chosen.setting, seed=own, epochs=epochs, deadline=deadline, watch=watch)
            outputs = {part: trained.output(part) for part in ("validation", "test")}
            judged = {part: task.judge(part, outputs[part], outputs["validation"]) for part in outputs}
            value = judged["validation"].mean(task.metric)
            record |= {part: _means(task, judged[part]) for part in judged}
            record |= {"each": {name: _packed(values) for name, values in judged["test"].each.items()}}
            record |= {"curve": list(trained.curve), "looks": looks}
        except Failed as problem:
            record["reason"] = str(problem)
        unit.finish(record, value)
    except BaseException:
        unit.leave()
        raise
    return True


def mark(chosen: Trial) -> str:
    """Trainings of another setting, chosen when fewer trials were finished, do not count."""
    return f"trial {chosen.index}"


def runs(book: Book, chosen: Trial, seeds: int) -> list[Run]:
    """The finished trainings of this setting, by number."""
    found = book.finished(mark(chosen))
    return [_read(found[number].user_attrs["record"]) for number in range(seeds) if number in found]


def _read(record: dict[str, Any]) -> Run:
    return Run(
        record["seed"],
        record.get("validation", {}),
        record.get("test", {}),
        {name: _unpacked(text) for name, text in record.get("each", {}).items()},
        tuple(record.get("curve", ())),
        tuple((int(epoch), float(value)) for epoch, value in record.get("looks", ())),
        record["reason"],
    )


def _means(task: Task, judged: Judged) -> dict[str, float | None]:
    return {name: judged.mean(name) for name in task.metrics}


def _packed(values: Values) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values, dtype="<f8").tobytes())).decode()


def _unpacked(text: str) -> Values:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f8").astype(np.float64)
