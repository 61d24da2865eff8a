"""Timing in alternation: floor, ours and every peer in turn, medians and quartiles over the alternations."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.works import Call, Peer, Work

NOISE = 0.10  # a floor whose quartiles differ by more claims nothing
LEAST_REPEATS = 7


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some measurements."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return Spread(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high)

    @property
    def relative(self) -> float:
        """Distance of the quartiles over the median."""
        return (self.high - self.low) / self.median


@dataclass
class Timing:
    """Seconds of each side in each alternation."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def spread(self, side: str) -> Spread:
        return Spread.of(self.seconds[side])

    def ratio(self, above: str, below: str) -> Spread:
        """Quotient of two sides, taken within each alternation."""
        return Spread.of([a / b for a, b in zip(self.seconds[above], self.seconds[below], strict=True)])

    @property
    def noisy(self) -> bool:
        return self.spread("floor").relative > NOISE


def alternate(sides: dict[str, Callable[[], Any]], repeats: int) -> Timing:
    """Runs every side once per alternation, after one round that is not counted. The order turns by one each time."""
    for run in sides.values():
        run()
    timing = Timing({name: [] for name in sides})
    names = list(sides)
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            sides[name]()
            timing.seconds[name].append(time.perf_counter() - began)
    return timing


def twice_if_noisy(measure: Callable[[], Timing]) -> Timing:
    """A measurement; a second one where the first is noisy (the caller asks the result whether it still is)."""
    timing = measure()
    return measure() if timing.noisy else timing


def forward_and_backward(call: Call, operands: Sequence[Tensor | None]) -> Callable[[], Tensor]:
    """The value and the operands' gradients; returns the value."""
    left, right, labels = operands
    wanted = [t for t in (left, right) if t is not None]

    def run() -> Tensor:
        value = call(left, right, labels)
        torch.autograd.grad(value, wanted)
        return value.detach()

    return run


def floor(work: Work, operands: Sequence[Tensor | None], height: int) -> Callable[[], None]:
    """The work's products over blocks of ``height`` rows, into outputs that exist already, and nothing else."""
    left = operands[0]
    assert left is not None
    left = left.detach()
    right = left if operands[1] is None else operands[1].detach()
    block = torch.empty(height, right.shape[0])
    on_left, on_right = torch.empty_like(left), torch.zeros_like(right)
    spans = [slice(start, min(start + height, work.rows)) for start in range(0, work.rows, height)]

    def run() -> None:
        for _ in range(work.products - 3):  # whole passes before the one with gradients
            for rows in spans:
                torch.mm(left[rows], right.T, out=block[: rows.stop - rows.start])
        for rows in spans:
            scores = block[: rows.stop - rows.start]
            torch.mm(left[rows], right.T, out=scores)
            torch.mm(scores, right, out=on_left[rows])
            on_right.addmm_(scores.T, left[rows])

    return run


class Products(TorchDispatchMode):
    """Records the matrix products that a call makes: their sizes, and how many rows its blocks of scores have."""

    def __init__(self, work: Work) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = work
        self.work_done = 0
        self.heights: Counter[int] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            first, second = args[-2:]
            (rows, inner), columns = first.shape, second.shape[1]
            self.work_done += rows * inner * columns
            if (inner, columns) == (self.work.features, self.work.columns):
                self.heights[rows] += 1
        return function(*args, **(kwargs or {}))

    @property
    def height(self) -> int:
        """Rows of the blocks: the commonest height, of two equally common ones the larger (the last block is cut)."""
        return max(self.heights, key=lambda h: (self.heights[h], h)) if self.heights else self.work.rows

    @property
    def count(self) -> float:
        """How many products of the work's full size were made."""
        return self.work_done / (self.work.rows * self.work.columns * self.work.features)


def loaded(peers: Sequence[Peer]) -> tuple[dict[str, Call], dict[str, str]]:
    """Calls of the peers that import, and of the others why not."""
    calls: dict[str, Call] = {}
    skipped: dict[str, str] = {}
    for peer in peers:
        try:
            calls[peer.name] = peer.load()
        except Exception as error:  # whatever a foreign package raises while it is imported
            skipped[peer.name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return calls, skipped


KINDS = {  # operations by what they are, for saying where the time goes
    "products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm"),
    "exp and log": ("aten::exp", "aten::exp_", "aten::log", "aten::log1p", "aten::softplus", "aten::logsumexp"),
    "reductions": ("aten::sum", "aten::amax", "aten::max", "aten::argmax", "aten::any", "aten::mean"),
    "copies and fills": ("aten::copy_", "aten::zero_", "aten::fill_"),
}


def sections(run: Callable[[], Any]) -> dict[str, float]:
    """Share of a run's operator time by kind, products first."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        run()
    spent: Counter[str] = Counter({kind: 0.0 for kind in KINDS})
    for event in profile.key_averages():
        kind = next((k for k, names in KINDS.items() if event.key in names), "other elementwise")
        spent[kind] += event.self_cpu_time_total
    total = sum(spent.values()) or 1.0
    return {kind: t / total for kind, t in spent.items()}
