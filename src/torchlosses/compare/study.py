"""The whole run: trials, final trainings, cost; each unit kept as soon as it is done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from torchlosses.compare import cost, final
from torchlosses.compare.contenders import Contender
from torchlosses.compare.devices import device
from torchlosses.compare.options import Options
from torchlosses.compare.plan import Budget, objectives_of, task_of, usable
from torchlosses.compare.results import Outcome, Result
from torchlosses.compare.search import Search, best
from torchlosses.compare.store import Book, Store, file_url
from torchlosses.compare.train import OutOfTime

Report = Callable[[str, int], None]  # what is being done, trainings finished
WAIT = 0.5  # seconds between looks at what other workers do
DATABASE = "study.db"


class Study:
    """A plan. Making it checks names, values and data; :meth:`measure` tries each objective; :meth:`run` does it all."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.objectives = objectives_of(options)  # cheap checks first
        self.device = device(options.devices, options.precision)
        self.task = task_of(options)
        self.task.to(self.device.target)
        self.contenders: list[Contender] = []
        self._searches: list[Search] = []
        self._finals: list[Book] = []

    @property
    def notes(self) -> list[str]:
        return self.task.notes

    @property
    def name(self) -> str:
        """Equal for equal studies."""
        identity = self.options.identity(self.task.data.fingerprint)
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def measure(self) -> Budget:
        """Which objectives take part, and what all of it will take."""
        self.contenders, budget = usable(self.task, self.objectives, self.options, self.device)
        return budget

    def open(self, folder: Path | None = None) -> None:
        """Opens the storage: the one asked for, or a file in the directory, or memory."""
        options = self.options
        url = options.storage or (None if folder is None else file_url(folder / DATABASE))
        store = Store(url, self.name)
        self._finals = [store.book("final", c.label) for c in self.contenders]
        self._searches = [
            Search(
                self.task,
                contender,
                store.book("trials", contender.label),
                seed=options.seed,
                epochs=options.epochs,
                trials=options.trials,
            )
            for contender in self.contenders
        ]

    def help(self) -> None:
        """Takes units as :meth:`run` does, for another worker that measures and reports."""
        with contextlib.suppress(OutOfTime, KeyboardInterrupt):
            limit = self._limit()
            self._tune(limit, lambda label, done: None)
            self._train(limit, lambda label, done: None)

    def _limit(self) -> float:
        limit = self.options.time_limit
        return math.inf if limit is None else time.perf_counter() + 60 * limit

    def run(self, report: Report = lambda label, done: None) -> Result:
        """Tunes and trains every contender, in rounds: one trial of each, then the next.

        A time limit so leaves equal numbers of trials to all; it keeps back the time that the final trainings need.
        """
        if not self._searches:
            self.open()
        begin = time.perf_counter()
        limit = self._limit()
        ended = "finished"
        try:
            self._tune(limit, report)
            self._train(limit, report)
            self._measure_cost(limit, report)
        except OutOfTime:
            ended = "time limit"
        except KeyboardInterrupt:
            ended = "interrupted"
        return self.result(ended, time.perf_counter() - begin)

    def result(self, ended: str, seconds: float) -> Result:
        """What is finished, as results."""
        options = self.options
        tried = [search.trials() for search in self._searches]
        rounds = min(len(trials) for trials in tried)
        outcomes = []
        for search, book, trials in zip(self._searches, self._finals, tried, strict=True):
            kept = trials[:rounds]
            chosen = best(kept)
            runs = [] if chosen is None else final.runs(book, chosen, options.seeds)
            outcomes.append(Outcome(search.contender, kept, chosen, runs, cost.known(search.book)))
        done = sum(len(outcome.runs) for outcome in outcomes)
        wanted = options.seeds * sum(o.best is not None or not o.trials for o in outcomes)
        if ended == "finished" and rounds < options.trials:
            ended = "time limit"
        notes = list(self.notes)
        if ended != "finished":
            how = "the time limit ended the run" if ended == "time limit" else "the run was interrupted"
            notes.append(
                f"{how} after {rounds} of {options.trials} trials of each contender and {done} of {wanted} final "
                "trainings; the same command goes on from there"
            )
        return Result(options, self.task, outcomes, notes, rounds, seconds, ended)

    @property
    def done(self) -> int:
        """Trainings finished, by any worker."""
        return sum(len(search.book.finished()) for search in self._searches) + sum(
            len(b.finished(None)) for b in self._finals
        )

    def _tune(self, limit: float, report: Report) -> None:
        try:
            for index in range(self.options.trials):
                self._round(index, limit, report)
        except OutOfTime:
            if not all(search.trials() for search in self._searches):
                raise
            # The round is not complete: nobody keeps it, and the final trainings begin.

    def _round(self, index: int, limit: float, report: Report) -> None:
        """Trial ``index`` of every contender, here or by another worker."""
        while True:
            missing = 0
            done = self.done
            for search in self._searches:
                if index in search.book.finished():
                    continue
                end = limit - self._reserve(limit)
                report(f"tuning {search.label}", done)
                ran = search.step(index, end)
                done += ran
                missing += not ran
            if not missing:
                return
            _wait(limit - self._reserve(limit))

    def _train(self, limit: float, report: Report) -> None:
        tried = [search.trials() for search in self._searches]
        rounds = min(len(trials) for trials in tried)
        chosen = [best(trials[:rounds]) for trials in tried]
        while True:
            missing = 0
            done = self.done
            for number in range(self.options.seeds):
                for search, book, trial in zip(self._searches, self._finals, chosen, strict=True):
                    if trial is None or number in book.finished(final.mark(trial)):
                        continue
                    report(f"training {search.label}", done)
                    ran = final.train(
                        self.task,
                        search.contender,
                        book,
                        trial,
                        number,
                        seed=self.options.seed,
                        epochs=self.options.epochs,
                        deadline=limit,
                    )
                    done += ran
                    missing += not ran
            if not missing:
                return
            _wait(limit)

    def _measure_cost(self, limit: float, report: Report) -> None:
        done = self.done
        for search in self._searches:
            left = limit - time.perf_counter()
            if left < 0:
                return
            report(f"cost of {search.label}", done)
            cost.cost(self.task, search.contender, search.book, left)

    def _reserve(self, limit: float) -> float:
        """What the final trainings will take, from the trials so far, with a quarter to spare."""
        if math.isinf(limit):
            return 0.0
        total = 0.0
        for search in self._searches:
            whole = [trial.seconds for trial in search.trials() if not trial.pruned]
            total += sum(whole) / len(whole) if whole else 0.0
        return 1.25 * self.options.seeds * total


def _wait(limit: float) -> None:
    """Lets other workers go on with what they have taken."""
    if time.perf_counter() > limit:
        raise OutOfTime
    time.sleep(WAIT)
