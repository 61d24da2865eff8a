"""Several devices: one worker process on each, all on the same study, which shares out its units among them."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from torchlosses.compare.options import Options

HELPER = "TORCHLOSSES_HELPER"  # set in a worker that another one started: it prints and writes nothing


def helping() -> bool:
    """Whether this process was started to help another one."""
    return HELPER in os.environ


@contextlib.contextmanager
def helpers(options: Options, folder: Path) -> Iterator[None]:
    """Starts a worker for every device beyond the first; they end with the study, at the latest with this process.

    What they do is claimed unit by unit, so the numbers are those of a single worker. One that fails is not missed: what it
    had taken is taken again.
    """
    if helping():
        yield
        return
    processes = [_started(options, folder, k) for k in range(1, options.devices or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _started(options: Options, folder: Path, number: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "torchlosses", *shlex.split(options.command)[1:]]
    if options.out is None:
        words += ["--out", str(folder)]
    if options.storage is not None:
        words += ["--storage", options.storage]
    environment = {**os.environ, HELPER: str(number)}
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        seen = visible if visible != [""] else [str(k) for k in range(torch.cuda.device_count())]
        environment["CUDA_VISIBLE_DEVICES"] = seen[number % len(seen)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
