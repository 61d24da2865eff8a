"""Extra peak memory of a call: what a fresh process takes beyond the operands and their gradients."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RESET_PEAK = "5"  # what /proc/self/clear_refs takes to set the peak back to the present


class Peak:
    """Resident bytes of this process: at the start, and the largest since."""

    def __init__(self) -> None:
        self.start = self.largest = 0

    @property
    def extra(self) -> int:
        return self.largest - self.start


@contextmanager
def peak() -> Iterator[Peak]:
    """Watches the enclosed lines: by the kernel's own peak where that can be reset, else by sampling."""
    found = Peak()
    gc.collect()
    if _reset():
        found.start = found.largest = resident()
        yield found
        found.largest = max(_kernel_peak(), resident())
        return
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.001):
            found.largest = max(found.largest, resident())

    found.start = found.largest = resident()
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        found.largest = max(found.largest, resident())


def resident() -> int:
    """Bytes of this process in memory now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # no Linux
        import psutil

        return int(psutil.Process().memory_info().rss)


def _reset() -> bool:
    """Sets the kernel's peak back to the present; tells whether that worked."""
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
        return _kernel_peak() - resident() < 1 << 20
    except (OSError, StopIteration):
        return False


def _kernel_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def in_fresh_process(work: str, side: str) -> int:
    """Extra peak bytes of a work, ``side`` being ``ours`` or a peer's name, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", work, side]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"memory of {work} ({side}): {done.stderr.strip().splitlines()[-1:]}")
    return int(done.stdout.split()[-1])


def measure(work_name: str, side: str) -> int:
    """The same in this process, which should be fresh.

    A small call comes first, so that libraries, threads and compiled code, which every program has, do not count.
    """
    import torch

    import torchlosses as tl
    from benchmarks.works import ALL

    work = next(w for w in ALL if w.name == work_name)
    load = work.load if side == "ours" else next(p.load for p in work.peers if p.name == side)
    call = load()
    warm_rows, warm_columns = min(work.rows, 256), min(work.columns, 512 if work.rows < work.columns else 256)

    def run(left: torch.Tensor, right: torch.Tensor | None, labels: torch.Tensor) -> None:
        operands = [t for t in (left, right) if t is not None]
        torch.autograd.grad(call(left, right, labels), operands)

    with tl.memory_budget(dense=0):  # the warm-up too goes in blocks
        run(*work.operands(warm_rows, warm_columns))  # type: ignore[arg-type]
    operands = work.operands()
    gradients = sum(t.nbytes for t in operands[:2] if t is not None)
    with peak() as found:
        run(*operands)  # type: ignore[arg-type]
    return max(0, found.extra - gradients)


if __name__ == "__main__":
    print(measure(sys.argv[1], sys.argv[2]))
