"""A million classes: a step of ArcFace and of its sampled form beside the usual code, ``python -m benchmarks.heads``.

A step is value, gradients and the update of features and class weights by plain SGD. Every side runs in a process of its
own, one after the other; a side whose computed need exceeds half of the free memory is not run, and its need is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import torchlosses as tl
from benchmarks.measure import Spread
from benchmarks.memory import peak
from benchmarks.table import MIB

MARGIN, SCALE = 0.5, 64.0


@dataclass(frozen=True)
class Size:
    """Rows of a batch, classes, features, and the share of classes that sampling takes."""

    batch: int = 256
    classes: int = 1_000_000
    features: int = 512
    rate: float = 0.1

    @property
    def weight(self) -> int:
        """Bytes of the class weights."""
        return 4 * self.classes * self.features

    @property
    def matrix(self) -> int:
        """Bytes of the whole matrix of scores."""
        return 4 * self.classes * self.batch


Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def usual(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """ArcFace as one writes it: the whole matrix, cosines clamped, the margin put into a copy."""
    cosine = F.linear(F.normalize(x), F.normalize(weight)).clamp(-1 + 1e-7, 1 - 1e-7)
    right = cosine.gather(1, y[:, None])
    hot = torch.zeros_like(cosine).scatter_(1, y[:, None], 1.0)
    return F.cross_entropy(SCALE * (cosine + hot * ((right.acos() + MARGIN).cos() - right)), y)


def ours(size: Size, sampled: str | None) -> Step:
    """ArcFace streamed over all classes, or over the sampled ones with dense or sparse gradients of the weights."""
    loss: tl.RowLoss = tl.ArcFace(margin=MARGIN, scale=SCALE)
    if sampled is not None:
        loss = tl.ClassSampling(loss, rate=size.rate, gradients=sampled, seed=0)
    return lambda x, weight, y: loss(tl.cosine(x, weight), y)


SIDES: dict[str, Callable[[Size], Step]] = {
    "usual code": lambda size: usual,
    "ArcFace": lambda size: ours(size, None),
    "ClassSampling, dense gradient": lambda size: ours(size, "dense"),
    "ClassSampling, sparse gradient": lambda size: ours(size, "sparse"),
}


def need(side: str, size: Size) -> int:
    """Bytes beyond features, weights and labels that a side holds at its peak, roughly; for not starting it."""
    if side == "usual code":  # normalized weights and two gradients of their size; five matrices saved, two in flight
        return 3 * size.weight + 7 * size.matrix
    if side == "ArcFace":
        return 3 * size.weight
    part = int(4 * size.rate * size.weight)
    return part + (size.weight if side.endswith("dense gradient") else 0)


def measure(side: str, size: Size, repeats: int) -> dict[str, object]:
    """Seconds of each step and extra peak bytes, in this process, which should be fresh."""
    step = SIDES[side](size)
    small = Size(min(size.batch, 32), min(size.classes, 2000), min(size.features, 16), size.rate)
    _steps(SIDES[side](small), small, 1)  # libraries and threads start outside the measurement
    seconds: list[tuple[float, float]] = []
    with peak() as found:
        operands = _operands(size)
        held = sum(t.nbytes for t in operands)
        value = _steps(step, size, repeats, seconds, operands)
    return {"seconds": seconds, "extra": max(0, found.extra - held), "value": value}


def _operands(size: Size) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(size.batch, size.features, generator=draw, requires_grad=True)
    weight = torch.empty(size.classes, size.features).normal_(generator=draw).requires_grad_()
    return x, weight, torch.randint(size.classes, (size.batch,), generator=draw)


def _steps(
    step: Step,
    size: Size,
    repeats: int,
    seconds: list[tuple[float, float]] | None = None,
    operands: tuple[Tensor, Tensor, Tensor] | None = None,
) -> float:
    """Runs training steps, noting wall and processor time; the value of the first one."""
    x, weight, y = _operands(size) if operands is None else operands
    optimizer = torch.optim.SGD([x, weight], lr=0.1)
    first = float("nan")
    for turn in range(repeats):
        began, busy = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        value = step(x, weight, y)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if seconds is not None:
            seconds.append((time.perf_counter() - began, time.process_time() - busy))
        first = float(value.detach()) if turn == 0 else first
    return first


def free() -> int:
    """Bytes that processes may still take."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except OSError:  # no Linux
        import psutil

        return int(psutil.virtual_memory().available)


def line(side: str, size: Size, repeats: int) -> str:
    """One side in words: measured, or why not."""
    wanted = size.weight + need(side, size)
    if wanted > free() / 2:
        return f"{side:32s} not run: needs about {wanted / MIB:,.0f} MiB, {free() / MIB:,.0f} MiB are free"
    command = [sys.executable, "-m", "benchmarks.heads", "--side", side, "--repeats", str(repeats)]
    command += [f"--{name}={value}" for name, value in asdict(size).items()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        return f"{side:32s} failed: {done.stderr.strip().splitlines()[-1:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    wall, busy = (Spread.of(column) for column in zip(*found["seconds"], strict=True))
    shown = f"{wall.median:.2f} [{wall.low:.2f}, {wall.high:.2f}]"
    return f"{side:32s} {shown:>24s} {busy.median:14.2f} {found['extra'] / MIB:12,.0f} {found['value']:10.4f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads", description=(__doc__ or "").splitlines()[0])
    for name, default in asdict(Size()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--repeats", type=int, default=3, help="steps of each side (default 3)")
    parser.add_argument("--side", choices=list(SIDES), action="append", help="measure only this side, in this process")
    options = parser.parse_args(arguments)
    size = Size(options.batch, options.classes, options.features, options.rate)
    if options.side:
        for side in options.side:
            print(json.dumps(measure(side, size, options.repeats)))
        return 0
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32\n"
        f"batch {size.batch}, {size.classes:,} classes, {size.features} features, {size.rate:.0%} sampled; "
        f"weights {size.weight / MIB:,.0f} MiB, matrix of scores {size.matrix / MIB:,.0f} MiB\n"
        f"{options.repeats} steps, peak beyond the operands with gradients included\n\n"
        f"{'a training step':32s} {'seconds [quartiles]':>24s} {'processor s':>14s} {'peak, MiB':>12s} {'value':>10s}"
    )
    for side in SIDES:
        print(line(side, size, options.repeats), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
