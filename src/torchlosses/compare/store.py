"""Units of work (a trial, a final training) kept by Optuna, so that a run can end anywhere and go on, and be shared.

Every unit has an index. A worker takes one by writing a running trial that holds the index; of two that took the same,
the later withdraws. A trial found running whose process is gone is marked failed, and its index is free again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from torchlosses.compare.refusal import Refusal

BEAT = 30.0  # seconds between signs of life
GONE = 600.0  # seconds without one after which a worker on another machine counts as gone
PROBLEMS = (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError)


def file_url(path: Path) -> str:
    return f"sqlite:///{path}"


class Store:
    """The storage of one study. Without an address it lives in memory."""

    def __init__(self, url: str | None, study: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = study
        self._storage = optuna.storages.InMemoryStorage() if url is None else _connect(url)

    def book(self, kind: str, label: str) -> Book:
        """The units of one kind ('trials', 'final') of one contender."""
        sampler, pruner = optuna.samplers.RandomSampler(seed=0), optuna.pruners.NopPruner()
        found = optuna.create_study(
            study_name=f"{self._study}/{kind}/{label}",
            storage=self._storage,
            direction="maximize",
            load_if_exists=True,
            sampler=sampler,  # of no use; each trial brings its own
            pruner=pruner,
        )
        return Book(found)


def _connect(url: str) -> optuna.storages.BaseStorage:
    sqlite = url.startswith("sqlite")
    arguments: dict[str, Any] = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    shown = url if "@" not in url else url.split("://")[0] + "://...@" + url.rsplit("@", 1)[1]  # no password
    for attempt in range(5):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=arguments)
        except ModuleNotFoundError as missing:
            raise Refusal(f"--storage: {shown} needs the package {missing.name}") from None
        except (SQLAlchemyError, RuntimeError, ValueError) as problem:
            if attempt == 4 or not isinstance(problem, DBAPIError):  # another worker may be making the same tables
                reason = str(problem).splitlines()[0]
                raise Refusal(f"--storage: cannot open {shown}: {reason}") from None
            time.sleep(0.3)
    raise AssertionError


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": psutil.Process().create_time()}


def _gone(owner: Mapping[str, Any], beat: float) -> bool:
    """Whether the process that runs a unit has ended. One process runs one unit at a time: its other ones are left ones."""
    if owner["host"] != socket.gethostname():
        return time.time() - beat > GONE
    if owner["pid"] == os.getpid():
        return True
    try:
        return bool(abs(psutil.Process(owner["pid"]).create_time() - owner["began"]) > 1)
    except psutil.Error:
        return True


class Book:
    """The units of one contender, by index; ``mark`` tells apart those that were planned otherwise."""

    def __init__(self, study: optuna.Study) -> None:
        self.study = study

    def finished(self, mark: str | None = "") -> dict[int, FrozenTrial]:
        """Every unit that came to an end, well or not; of any mark, where it is None."""
        found = {}
        for trial in reversed(self._live(mark)):
            if trial.state.is_finished():
                found[int(trial.user_attrs["index"])] = trial
        return found

    def _live(self, mark: str | None) -> list[FrozenTrial]:
        attributes = [(trial, trial.user_attrs) for trial in self.study.get_trials(deepcopy=False)]
        return [t for t, a in attributes if "index" in a and not a.get("left") and mark in (None, a.get("mark"))]

    def claim(self, index: int, mark: str = "", params: Mapping[str, Any] | None = None) -> Unit | None:
        """The unit to work on; None where it is finished or another worker has it. ``params`` are given, not drawn."""
        for trial in self._live(mark):
            if trial.user_attrs["index"] != index:
                continue
            if trial.state.is_finished():
                return None
            if not _gone(trial.user_attrs["owner"], trial.user_attrs["beat"]):
                return None
            self._leave(trial.number, trial._trial_id)
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            user_attrs={"index": index, "mark": mark, "owner": _me(), "beat": time.time()},
            system_attrs={} if params is None else {"fixed_params": dict(params)},
        )
        own = self.study._storage.create_new_trial(self.study._study_id, template)
        rivals = [trial for trial in self._live(mark) if trial.user_attrs["index"] == index]
        first = min(rivals, key=lambda trial: trial.number)
        if first._trial_id != own:
            self._leave(next(trial.number for trial in rivals if trial._trial_id == own), own)
            return None
        return Unit(self, optuna.trial.Trial(self.study, own))

    def _leave(self, number: int, identifier: int) -> None:
        self.study._storage.set_trial_user_attr(identifier, "left", True)
        self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


@dataclass
class Unit:
    """A claimed unit; it ends by :meth:`finish` or :meth:`leave`."""

    book: Book
    trial: optuna.trial.Trial
    _beat: float = 0.0

    def beat(self) -> None:
        """A sign of life, for workers on other machines."""
        now = time.time()
        if now - self._beat > BEAT:
            self._beat = now
            self.trial.set_user_attr("beat", now)

    def finish(self, record: Mapping[str, Any], value: float | None, *, pruned: bool = False) -> None:
        """Keeps what came of it. Nothing is finished without its record."""
        self.trial.set_user_attr("record", dict(record))
        state = TrialState.PRUNED if pruned else TrialState.FAIL if value is None else TrialState.COMPLETE
        self.book.study.tell(self.trial, value if state is TrialState.COMPLETE else None, state=state)

    def leave(self) -> None:
        """Gives the index back."""
        self.book._leave(self.trial.number, self.trial._trial_id)
