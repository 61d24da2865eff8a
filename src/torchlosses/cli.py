"""The command ``torchlosses``: list, show, compare. ``list`` and ``show`` need the core alone."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torchlosses
from torchlosses import catalog
from torchlosses.compare.refusal import Refusal
from torchlosses.hyperparameters import Hyper
from torchlosses.loss import RowLoss


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 2 refused with a message, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except (Refusal, catalog.UnknownLoss) as refusal:
        print(f"torchlosses: {refusal}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("torchlosses: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has gone
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchlosses", description="Training objectives for PyTorch: find one, look at it, compare them."
    )
    parser.add_argument("--version", action="version", version=f"torchlosses {torchlosses.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the objectives, one a line")
    listing.add_argument("--task", choices=catalog.TASKS, help="only those that serve this task of compare")
    listing.add_argument("--family", help="only this family: " + ", ".join(catalog.families()))
    listing.add_argument("--search", metavar="WORDS", help="words of a name, alias, paper or purpose")
    listing.set_defaults(run=_list)

    show = commands.add_parser("show", help="one objective: paper, formula, hyperparameters, aliases")
    show.add_argument("name", help="its name or an alias, in any case")
    show.add_argument("--plot", metavar="FILE", help="draw loss and gradient against the score (.html)")
    show.set_defaults(run=_show)

    compare = commands.add_parser(
        "compare",
        help="which objective to train with, measured on data",
        description="Trains the same encoder with every objective, each tuned with the same number of trials, "
        "and reports the results on a test split that was used for nothing else.",
    )
    compare.add_argument(
        "data",
        metavar="DATA",
        help="digits; a .npz, .csv or .parquet file; a LibSVM file with query sizes (FILE.query beside it, or qid:); "
        "a Hugging Face dataset directory",
    )
    compare.add_argument("--task", choices=catalog.TASKS, default="classification")
    compare.add_argument(
        "--loss",
        action="append",
        metavar="NAME[:param=value,...]",
        help="an objective; give the option once for each (default: a list for the task; 'all': every one)",
    )
    for name, text in (
        ("label", "the column of classes, of zeros and ones for several labels, or of grades (default y or label)"),
        ("group", "the column of what belongs together: a ranking's query, or what no split may divide"),
        ("left", "pairs: the column that is searched from"),
        ("right", "pairs: the column that is found"),
        ("text", "the column of text to read, with --encoder text:PATH"),
    ):
        compare.add_argument(f"--{name}", metavar="COLUMN", help=text)
    compare.add_argument(
        "--encoder",
        default="mlp",
        metavar="WHICH",
        help="mlp, conv, linear, text:PATH (a sentence-transformers model, frozen, with a trained adapter), or "
        "module:function, called with the shape of an example (default mlp)",
    )
    compare.add_argument("--noise", type=_share, default=0.0, help="share of training labels to flip (classification)")
    compare.add_argument(
        "--imbalance",
        type=_factor,
        default=1.0,
        help="how many times as many training examples the first class keeps as the last (classification)",
    )
    compare.add_argument(
        "--unseen",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="CLASS,...",
        help="the classes to test on, never trained on (retrieval; default: drawn at random)",
    )
    compare.add_argument("--no-yardstick", action="store_true", help="without logistic regression or LightGBM beside")
    compare.add_argument("--trials", type=_count, default=12, help="settings tried for each (default 12)")
    compare.add_argument("--seeds", type=_count, default=5, help="trainings of the chosen one (default 5)")
    compare.add_argument("--epochs", type=_count, default=30, help="passes over the data (default 30)")
    compare.add_argument("--out", metavar="DIR", help="where study.db, results.json and report.html go")
    compare.add_argument("--seed", type=int, default=0, help="what everything random follows (default 0)")
    compare.add_argument(
        "--storage",
        metavar="URL",
        help="a database that several workers share, such as postgresql://... (default: study.db in the directory)",
    )
    compare.add_argument(
        "--devices",
        type=_count,
        metavar="N",
        help="train where Lightning Fabric places it, a GPU where there is one; of several, each has a worker of its own",
    )
    compare.add_argument(
        "--precision",
        choices=("32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"),
        default="32-true",
        help="Lightning Fabric's precision of the trainings (default 32-true)",
    )
    compare.add_argument(
        "--time-limit",
        type=_minutes,
        metavar="MIN",
        help="end within this many minutes with what is finished; the same command goes on later",
    )
    compare.set_defaults(run=_compare)
    return parser


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return value


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of minutes above 0, got {text!r}")
    return value


def _share(text: str) -> float:
    return _number(text, 0.0, 0.9, "a share of at least 0 and at most 0.9")


def _factor(text: str) -> float:
    return _number(text, 1.0, 1e6, "a number of at least 1")


def _number(text: str, low: float, high: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


# --- list and show -------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    family = options.family
    if family is not None and family not in catalog.families():
        raise Refusal(f"unknown family {family!r}; expected one of {', '.join(catalog.families())}")
    found = catalog.search(task=options.task, family=family, text=options.search)
    if not found:
        print("no objective matches")
        return 0
    names = max(len(entry.name) for entry in found)
    kinds = max(len(entry.card.family) for entry in found)
    room = max(20, shutil.get_terminal_size().columns - names - kinds - 10)
    for entry in found:
        purpose = entry.card.purpose
        if len(purpose) > room:
            purpose = purpose[: room - 1].rstrip() + "…"
        _print(f"{entry.name:<{names}}  {entry.card.family:<{kinds}}  {entry.card.year}  {purpose}")
    _print(f"\n{len(found)} of {len(catalog.entries())}; torchlosses show NAME tells more")
    return 0


def _show(options: argparse.Namespace) -> int:
    found = catalog.find(options.name)
    name, card = found.entry.name, found.entry.card
    if options.plot is not None:
        return _plot(found.entry, Path(options.plot))
    if found.alias is not None:
        _print(f"{found.alias} is an alias of {name}\n")
    _print(f"{name}: {card.purpose}\n")
    _fact("paper", f"{card.title} ({card.year}), {card.identifier}")
    _fact("formula", card.formula)
    _fact("family", card.family)
    _fact("tasks", ", ".join(card.tasks) or "none of compare's")
    _fact("scores", card.scores)
    if issubclass(found.entry.loss, RowLoss) and isinstance(found.entry.loss.accepts, tuple):
        _fact("reads", ", ".join(found.entry.loss.accepts))
    _fact("mean over", card.over)
    _fact("detached", card.detached)
    _fact("cost", card.cost)
    _fact("equals", "; ".join(card.equals))
    _fact("also named", ", ".join(card.aliases))
    _fact("note", card.note)
    hypers = found.entry.loss.hyperparameters()
    if hypers:
        _print("\nhyperparameters")
        for hyper in hypers.values():
            _print(textwrap.indent(_hyper(hyper), "  "))
    return 0


def _fact(label: str, text: str) -> None:
    if text:
        indent = " " * 12
        width = max(40, min(110, shutil.get_terminal_size().columns))
        _print(textwrap.fill(text, width, initial_indent=f"{label:<12}", subsequent_indent=indent, break_on_hyphens=False))


def _hyper(hyper: Hyper) -> str:
    default = "required" if hyper.required else f"default {hyper.default!r}"
    text = f"{hyper.name}: {default}, {hyper.expected}"
    if hyper.search is not None:
        found = hyper.search
        if found.choices:
            text += f"; searched in {', '.join(repr(c) for c in found.choices)}"
        else:
            text += f"; searched in {found.low:g} to {found.high:g}{' (log)' if found.log else ''}"
    return f"{text}\n    {hyper.doc}" if hyper.doc and hyper.kind != "data" else text


def _print(text: str) -> None:
    """Prints, also where the terminal cannot show every letter."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))


# --- what needs the extra --------------------------------------------------------------------------------------


def _plot(entry: catalog.Entry, path: Path) -> int:
    if path.suffix.lower() != ".html":
        raise Refusal(f"--plot: expected a file name that ends in .html, got {str(path)!r}")
    try:
        from torchlosses.compare.curve import draw

        draw(entry, path)
    except ModuleNotFoundError as missing:
        raise _needs_extra("show --plot", missing) from None
    except OSError as problem:
        raise Refusal(f"--plot: cannot write {path}: {problem.strerror}") from None
    _print(f"wrote {path}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    try:
        from torchlosses.compare.options import Options
        from torchlosses.compare.terminal import compare
    except ModuleNotFoundError as missing:
        raise _needs_extra("compare", missing) from None
    return compare(
        Options(
            data=options.data,
            task=options.task,
            losses=tuple(options.loss or ()),
            trials=options.trials,
            seeds=options.seeds,
            epochs=options.epochs,
            out=options.out,
            seed=options.seed,
            time_limit=options.time_limit,
            label=options.label,
            group=options.group,
            left=options.left,
            right=options.right,
            text=options.text,
            encoder=options.encoder,
            noise=options.noise,
            imbalance=options.imbalance,
            unseen=options.unseen,
            yardstick=not options.no_yardstick,
            storage=options.storage,
            devices=options.devices,
            precision=options.precision,
        )
    )


def _needs_extra(command: str, missing: ModuleNotFoundError) -> Refusal:
    package = (missing.name or "").partition(".")[0]
    if package == "torchlosses":
        raise missing
    return Refusal(f"{command} needs the extra 'compare' ({package} is not installed): pip install 'torchlosses[compare]'")
