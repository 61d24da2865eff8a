"""What a step of each objective costs, measured apart from the training.

Each objective is measured in a fresh process that does nothing else: one thread, the paper's defaults, the data's own first
batch. Time: the median over steps (forward, backward, optimizer) after some that warm up. Memory: the most that tensors hold
during forward and backward above what they held before, counted by torch's profiler; weights, data and optimizer state were
there before.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import statistics
import sys
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from torchlosses.compare.contenders import Contender, Trainee
from torchlosses.compare.store import Book
from torchlosses.compare.tasks.base import Task

METHOD = (
    "Cost: each objective in a fresh process of its own, on the device of the trainings (one thread of a CPU), its "
    "defaults, batches of the training data. Time: median of {steps} steps (forward, backward, optimizer). Memory: the "
    "most that tensors hold during forward and backward above what they held before (weights, data and optimizer state), "
    "counted by torch's profiler."
)
WARM, STEPS = 5, 30
PATIENCE = 120.0  # seconds


@dataclass(frozen=True)
class Cost:
    """Milliseconds of a step with their quartiles, and extra bytes of tensors."""

    step_ms: float
    low_ms: float
    high_ms: float
    peak: int


def cost(task: Task, contender: Contender, book: Book, patience: float = PATIENCE) -> Cost | None:
    """The cost, measured once for a study; None where there is none (a yardstick, or a process that failed)."""
    if not isinstance(contender, Trainee):
        return None
    known = book.study.user_attrs.get("cost")
    if known is None:
        known = _apart(task, contender, min(patience, PATIENCE))
        if known is not None:
            book.study.set_user_attr("cost", known)
    return None if known is None else Cost(**known)


def known(book: Book) -> Cost | None:
    """The cost if it was measured."""
    found = book.study.user_attrs.get("cost")
    return None if found is None else Cost(**found)


def _apart(task: Task, contender: Trainee, patience: float) -> dict[str, Any] | None:
    # A fork server is a fresh process that has imported the library once, and forks for each objective.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["torchlosses.compare.cost"])
    try:
        content = pickle.dumps((task, contender))
    except (pickle.PicklingError, AttributeError, TypeError):  # an encoder or loss made on the spot
        return None
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, content), daemon=True)
    main = sys.modules["__main__"]
    path, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    try:  # the new process is not to run the user's script, or the command, once more
        main.__file__, main.__spec__ = None, None
        process.start()
    finally:
        main.__file__, main.__spec__ = path, spec
    try:
        theirs.close()
        found: dict[str, Any] | None = ours.recv() if ours.poll(patience) else None
        return found
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def _measure(pipe: Connection, content: bytes) -> None:
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the profiler writes there
    torch.set_num_threads(1)
    try:
        found: dict[str, Any] | None = vars(measured(*pickle.loads(content)))
    except Exception:  # the trainings have told why
        found = None
    pipe.send(found)


def measured(task: Task, contender: Trainee) -> Cost:
    """The cost in this process."""
    objective = contender.objective
    card = objective.entry.card
    torch.manual_seed(0)
    model = task.model(card)
    loss = objective.build(objective.defaults(), task.facts)
    plain: torch.optim.Optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=1e-4)
    device = contender.device
    model, optimizer = device.place(model, loss, plain)
    rows = next(iter(task.epoch(torch.Generator().manual_seed(0)))).to(device.target)

    def value() -> None:
        with device.autocast():
            found = task.value(model, loss, card, rows)
        device.backward(found)

    def step() -> float:
        optimizer.zero_grad()
        begin = time.perf_counter()
        value()
        optimizer.step()
        if device.target.type == "cuda":
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - begin)

    for _ in range(WARM):
        step()
    times = [step() for _ in range(STEPS)]
    low, middle, high = statistics.quantiles(times, n=4)
    optimizer.zero_grad(set_to_none=False)  # gradients are there before, as weights are
    return Cost(middle, low, high, _peak(value))


def _peak(work: Any) -> int:
    """The most bytes of tensors at once during ``work``, above those before it."""
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return int(torch.cuda.max_memory_allocated() - before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
