"""The benchmark table: ``python -m benchmarks [--fused] [--only NAME] [--repeats N] [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import measure, memory, table
from benchmarks.works import ALL, FUSED, WORKS, Call, Work


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.only:
        chosen = [w for w in ALL if any(_same(w.name, name) for name in options.only)]
    else:
        chosen = list(FUSED if options.fused else WORKS)
    rows, absent = [], []
    print(f"{_machine()}\n", flush=True)
    for work in chosen:
        try:
            ours = work.load()
        except AttributeError as error:
            absent.append(f"{work.name}: not in this version ({error})")
            continue
        print(f"measuring {work.title} ...", file=sys.stderr, flush=True)
        rows.append(run(work, ours, options.repeats))
        print(rows[-1].brief(), file=sys.stderr, flush=True)
        if options.json:  # what is measured is kept, whatever happens to the next work
            _write(Path(options.json), rows)
    print("\n".join([table.text(rows, options.repeats), *absent] if rows else absent))
    return 0 if rows else 2


def _write(path: Path, rows: list[table.Row]) -> None:
    report = {"machine": _machine(), "works": [row.record() for row in rows]}
    path.write_text(json.dumps(report, indent=1) + "\n")


def run(work: Work, ours: Call, repeats: int) -> table.Row:
    """Times a work, then measures its memory in fresh processes."""
    operands = work.operands()
    calls, skipped = measure.loaded(work.peers)
    sides = {name: measure.forward_and_backward(call, operands) for name, call in calls.items()}
    ours_run = measure.forward_and_backward(ours, operands)
    with measure.Products(work) as made:
        values = {"ours": float(ours_run())}
    for name, side in list(sides.items()):
        try:
            values[name] = float(side())
        except Exception as error:  # imports but cannot run here (no compiler, no kernel for this device)
            skipped[name] = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            del sides[name]
    runs = {"floor": measure.floor(work, operands, made.height), "ours": ours_run, **sides}
    timing = measure.twice_if_noisy(lambda: measure.alternate(runs, repeats))
    row = table.Row(work, timing, repeats, made.height, made.count, values, skipped)
    row.sections = measure.sections(ours_run)
    row.memory = {name: memory.in_fresh_process(work.name, name) for name in ("ours", *calls) if name in values}
    return row


def _machine() -> str:
    cores = torch.get_num_threads()
    return f"torch {torch.__version__}, {platform.machine()}, {cores} threads, float32"


def _same(name: str, asked: str) -> bool:
    return name.lower().replace(" ", "") == asked.lower().replace(" ", "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed and memory beside the usual code.")
    parser.add_argument(
        "--fused", action="store_true", help="every target-probability loss on one head, beside cross-entropy"
    )
    names = [w.name for w in ALL]
    parser.add_argument(
        "--only", action="append", type=_work, metavar="NAME", help=f"one of {', '.join(names)}; may be repeated"
    )
    parser.add_argument(
        "--repeats",
        type=_count,
        default=measure.LEAST_REPEATS,
        metavar="N",
        help=f"alternations (default {measure.LEAST_REPEATS}; with fewer the rows claim nothing)",
    )
    parser.add_argument("--json", metavar="FILE", help="write every measurement there too")
    return parser


def _work(name: str) -> str:
    if not any(_same(work.name, name) for work in ALL):
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(w.name for w in ALL)}, got {name!r}")
    return name


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
