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

from torchlosses.compare.report import METRICS, Folder, number
from torchlosses.compare.study import Options, Result, Study


def compare(options: Options) -> int:
    """The whole command; returns the exit code."""
    console = Console(highlight=False)
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a setting that a trial tries; its value tells
        study = Study(options)
        folder = Folder.find(options, study.task.data)
        study.measure()
        folder.claim()
        _introduce(console, study)
        result = _run(console, study)
    folder.write(result)
    console.print(table(result))
    _conclude(console, result)
    console.print(f"wrote {folder.path / 'results.json'} and {folder.path / 'report.html'}", soft_wrap=True)
    return 130 if result.ended == "interrupted" else 0


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: fastest for small networks, and the same sums on every machine with as many cores or more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _introduce(console: Console, study: Study) -> None:
    task, budget, options = study.task, study.budget, study.options
    sizes = ", ".join(f"{count} {part}" for part, count in task.split.sizes().items())
    console.print(f"[bold]{escape(task.data.name)}[/bold], {task.name}: {sizes}", soft_wrap=True)
    console.print(
        f"budget: {budget.objectives} objectives x ({budget.trials} trials + {budget.seeds} seeds) "
        f"x {budget.steps} steps = {budget.trainings} trainings",
        soft_wrap=True,
    )
    limit = "" if options.time_limit is None else f", at most {options.time_limit:g} min"
    console.print(f"expected duration: {duration(budget.seconds)}{limit}")
    for note in study.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)


def _run(console: Console, study: Study) -> Result:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar_console = console if console.is_terminal else Console(file=sys.stderr)
    with Progress(*columns, console=bar_console, transient=True) as progress:
        bar = progress.add_task("", total=study.budget.trainings)
        return study.run(lambda label, done: progress.update(bar, completed=done, description=f"{escape(label):<24}"))


def table(result: Result) -> Table:
    """The leaderboard."""
    metrics = result.task.metrics
    title = f"{result.task.data.name}, {result.task.name}: test, mean ± standard deviation over seeds"
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    shown.add_column("objective", overflow="fold")
    for name in metrics:
        shown.add_column(METRICS[name], justify="right", no_wrap=True)
    for name in ("val.", "ms/step", "failed"):
        shown.add_column(name, justify="right")
    best = result.chosen
    for outcome in result.leaderboard():
        main = f"{number(outcome.mean(metrics[0]))} ± {number(outcome.spread(metrics[0]))}"
        shown.add_row(
            escape(outcome.label),
            main,
            *(number(outcome.mean(name)) for name in metrics[1:]),
            number(outcome.validated(metrics[0])),
            number(outcome.step_ms, 2),
            str(outcome.failed),
            style="bold" if outcome is best else None,
        )
    return shown


def _conclude(console: Console, result: Result) -> None:
    best = result.chosen
    if best is not None and best.best is not None:
        setting = {k: v for k, v in best.best.setting.items() if k != "learning_rate"}
        console.print(f"best on validation: [bold]{escape(best.label)}[/bold]", soft_wrap=True)
        console.print(f"  loss = {escape(best.objective.code(setting))}", soft_wrap=True)
        console.print(f"  value = {escape(result.task.call(best.objective.entry.card))}", soft_wrap=True)
    for outcome in result.outcomes:
        for reason in outcome.failures:
            console.print(f"failed: {escape(outcome.label)}: {escape(reason)}", soft_wrap=True)
    if result.ended != "finished":
        console.print(f"[yellow]ended early: {result.ended}[/yellow]")
        for note in result.notes:
            if "time limit" in note:
                console.print(f"note: {escape(note)}", soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds or minutes in words, rounded up.

    >>> duration(12.3), duration(200)
    ('about 13 s', 'about 4 min')
    """
    return f"about {math.ceil(seconds)} s" if seconds < 100 else f"about {math.ceil(seconds / 60)} min"
