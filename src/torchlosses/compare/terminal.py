"""What ``torchlosses compare`` prints: budget, progress, leaderboard, where the files are."""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from collections.abc import Iterator

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from torchlosses.compare.folder import Folder
from torchlosses.compare.metrics import METRICS
from torchlosses.compare.options import Options
from torchlosses.compare.plan import Budget
from torchlosses.compare.refusal import Refusal
from torchlosses.compare.report.words import around, chance, number, size
from torchlosses.compare.results import Outcome, Result
from torchlosses.compare.store import PROBLEMS
from torchlosses.compare.study import Study
from torchlosses.compare.usage import essence
from torchlosses.compare.workers import helpers, helping


def compare(options: Options) -> int:
    """The whole command; returns the exit code."""
    console = Console(highlight=False, quiet=helping())
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a setting that a trial tries; its value tells
        if options.encoder.startswith("text:"):
            console.print("encoding the text; this happens at every start")
        study = Study(options)
        folder = Folder.find(options, study.task)
        budget = study.measure()
        folder.claim()
        try:
            study.open(folder.path)
            if helping():
                study.help()
                return 0
            _introduce(console, study, budget)
            with helpers(options, folder.path):
                result = _run(console, study, budget)
        except PROBLEMS as problem:
            reason = str(problem.__cause__ or problem).splitlines()[0]
            raise Refusal(
                f"cannot keep the results in {(options.storage and '--storage') or folder.path}: {reason}; what is finished "
                "stays, and the same command goes on from there"
            ) from None
    folder.write(result)
    console.print(table(result, console.width))
    _conclude(console, result)
    console.print(f"wrote {folder.path / 'results.json'} and {folder.path / 'report.html'}", soft_wrap=True)
    if result.ended != "finished":
        console.print(f"to go on: {escape(_again(options, folder))}", soft_wrap=True)
    return 130 if result.ended == "interrupted" else 0


def _again(options: Options, folder: Folder) -> str:
    """The command, with the directory it found."""
    return options.command if options.out is not None else f"{options.command} --out {folder.path}"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: fastest for small networks, and the same sums on every machine with as many cores or more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _introduce(console: Console, study: Study, budget: Budget) -> None:
    task, options = study.task, study.options
    sizes = ", ".join(f"{count} {part}" for part, count in task.split.sizes().items())
    console.print(f"[bold]{escape(task.data.name)}[/bold], {task.name}: {sizes}", soft_wrap=True)
    console.print(
        f"budget: {budget.contenders} contenders x ({budget.trials} trials + {budget.seeds} seeds) "
        f"x {budget.steps} steps = {budget.trainings} trainings",
        soft_wrap=True,
    )
    done = study.done
    if done:
        console.print(f"going on: {done} trainings are finished")
    left = budget.seconds * max(0.0, 1 - done / budget.trainings)
    limit = "" if options.time_limit is None else f", at most {options.time_limit:g} min"
    console.print(f"expected duration: {duration(left)}{limit}")
    for note in study.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)


def _run(console: Console, study: Study, budget: Budget) -> Result:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar_console = console if console.is_terminal else Console(file=sys.stderr)
    with Progress(*columns, console=bar_console, transient=True) as progress:
        bar = progress.add_task("", total=budget.trainings)
        return study.run(lambda what, done: progress.update(bar, completed=done, description=f"{escape(what):<28}"))


def table(result: Result, width: int = 100) -> Table:
    """The leaderboard, with as many columns as fit; what matters least is left out first."""
    metrics, best, found = result.task.metrics, result.chosen, result.differences
    board = result.leaderboard()

    def p(outcome: Outcome) -> str:
        difference = found.get(outcome.label)
        return "best" if outcome is best else "–" if difference is None else chance(difference.adjusted)

    def main(outcome: Outcome) -> str:
        return around(result.intervals[outcome.label].get(metrics[0]), outcome.mean(metrics[0]), 3)

    columns: dict[str, list[str]] = {METRICS[metrics[0]].title: [main(o) for o in board], "p": [p(o) for o in board]}
    if any(outcome.failed for outcome in board):
        columns["failed"] = [str(outcome.failed) for outcome in board]
    columns["ms/step"] = [number(None if o.cost is None else o.cost.step_ms, 1) for o in board]
    for name in metrics[1:]:
        columns[METRICS[name].title] = [number(o.mean(name), 3) for o in board]
    columns["memory"] = ["–" if o.cost is None else size(o.cost.peak) for o in board]
    columns["validation"] = [number(o.mean(metrics[0], "validation"), 3) for o in board]
    room = width - min(34, max(len(outcome.label) for outcome in board)) - 2
    shown = Table(title=_title(result), box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    shown.add_column("objective", overflow="fold")
    kept: list[list[str]] = []
    for title, cells in columns.items():
        room -= max(map(len, (title, *cells))) + 3
        if room >= 0 or len(kept) < 2:
            shown.add_column(title, justify="right", no_wrap=True)
            kept.append(cells)
    for place, outcome in enumerate(board):
        style = "bold" if outcome is best else "italic" if outcome.yardstick else None
        shown.add_row(escape(outcome.label), *(cells[place] for cells in kept), style=style)
    return shown


def _title(result: Result) -> str:
    return f"{result.task.data.name}, {result.task.name}: on test, mean over seeds and its 95% interval"


def _conclude(console: Console, result: Result) -> None:
    best = result.chosen
    if best is None:
        for outcome in result.outcomes:
            if outcome.best is not None:
                value = number(outcome.best.value)
                console.print(f"so far: {escape(outcome.label)}: {value} on validation", soft_wrap=True)
    else:
        console.print(f"best on validation: [bold]{escape(best.label)}[/bold]", soft_wrap=True)
        console.print(escape(result.verdict), soft_wrap=True)
        if result.differences:
            console.print(
                f"p: after Holm, of a difference from it, the {result.task.unit} the unit; all seeds share one split",
                soft_wrap=True,
            )
        for line in essence(result):
            console.print(f"  {escape(line)}", soft_wrap=True)
    if result.saved > 0:
        console.print(f"pruning saved {100 * result.saved:.0f}% of the trials' steps")
    for outcome in result.outcomes:
        for reason in outcome.failures:
            console.print(f"failed: {escape(outcome.label)}: {escape(reason)}", soft_wrap=True)
    if result.ended != "finished":
        console.print(f"[yellow]ended early: {result.ended}[/yellow]")
        console.print(f"note: {escape(result.notes[-1])}", soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds or minutes in words, rounded up.

    >>> duration(12.3), duration(200)
    ('about 13 s', 'about 4 min')
    """
    return f"about {math.ceil(seconds)} s" if seconds < 100 else f"about {math.ceil(seconds / 60)} min"
