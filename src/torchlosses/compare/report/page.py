"""The sections in their order."""

from __future__ import annotations

from html import escape

from torchlosses.compare.cost import METHOD, STEPS
from torchlosses.compare.metrics import METRICS
from torchlosses.compare.metrics import __doc__ as conventions
from torchlosses.compare.report import pictures
from torchlosses.compare.report.markup import code, document, items, table
from torchlosses.compare.report.words import around, chance, number, setting, size
from torchlosses.compare.results import Outcome, Result
from torchlosses.compare.statistics import DRAWS, PERMUTATIONS
from torchlosses.compare.usage import whole


def page(result: Result) -> str:
    """The report as one HTML page."""
    task = result.task
    title = METRICS[task.metric].title
    title = title[0].upper() + title[1:]
    sections = [
        ("Leaderboard", _leaderboard(result)),
        (f"{title} with 95% intervals", pictures.dots(result) + _soft("Dots: seeds. Large dot: mean. Line: 95% interval.")),
        ("Is the difference real?", _differences(result)),
        ("Use it", _use(result)),
        (f"{title} against cost", _costs(result)),
        ("Learning curves", _curves(result)),
        ("Effect of the hyperparameters", _effects(result)),
        ("Chosen settings", _settings(result)),
        ("Notes", _notes(result)),
        ("How it was measured", _method(result)),
    ]
    return document(f"{task.data.name}: {task.name}", _answer(result), sections)


def _soft(text: str) -> str:
    return f"<p class=soft>{escape(text)}</p>"


def _answer(result: Result) -> str:
    best, metric = result.chosen, result.task.metric
    if best is None:
        text = "No final training is finished yet."
    else:
        it = result.intervals[best.label][metric]
        text = (
            f"Best on validation: <strong>{escape(best.label)}</strong>, {METRICS[metric].title} on test "
            f"{around(it, it.mean)}. {escape(result.verdict)}"
        )
    if result.ended != "finished":
        text += f" <strong>The run ended early ({escape(result.ended)}).</strong>"
    return f"<p class=answer>{text}</p>"


def _marks(result: Result) -> list[str]:
    best = result.chosen
    return ["best" if o is best else "beside" if o.yardstick else "" for o in result.leaderboard()]


def _leaderboard(result: Result) -> str:
    metrics = result.task.metrics
    head = ["", *(METRICS[m].title for m in metrics), f"{METRICS[metrics[0]].title} on validation"]
    head += ["ms per step", "memory", "failed"]
    rows = []
    for outcome in result.leaderboard():
        intervals = result.intervals[outcome.label]
        cost = outcome.cost
        rows.append(
            [
                outcome.label,
                *(around(intervals.get(m) if m == metrics[0] else None, outcome.mean(m)) for m in metrics),
                number(outcome.mean(metrics[0], "validation")),
                number(None if cost is None else cost.step_ms, 2),
                "–" if cost is None else size(cost.peak),
                str(outcome.failed),
            ]
        )
    caption = (
        f"On the test split, which nothing was chosen by: mean over {result.options.seeds} seeds [95% interval]; "
        "failed: trials and trainings without a result"
    )
    return table(head, rows, caption, _marks(result))


def _differences(result: Result) -> str:
    found, best = result.differences, result.chosen
    if best is None or not found:
        return _soft(result.verdict)
    rows = []
    for outcome in result.leaderboard():
        it = found.get(outcome.label)
        if it is None:
            continue
        word = "no difference shown" if not it.shown else "better" if it.interval.mean > 0 else "worse"
        rows.append(
            [outcome.label, around(it.interval, None), chance(it.permutation), chance(it.p), chance(it.adjusted), word]
        )
    head = ["", "difference [95% interval]", "p, examples", "p, examples and seeds", "p after Holm", "verdict"]
    caption = f"{METRICS[result.task.metric].title} on test, less that of {best.label}, which validation preferred"
    return table(head, rows, caption, text=5) + _soft(
        f"The unit is the {result.task.unit}, its score averaged over seeds. p, examples: paired permutation test. "
        "The larger of both p, adjusted by Holm over all rows, must be below 0.05 for a difference to be shown. "
        "All seeds share one split of the data: nothing here speaks of other splits."
    )


def _use(result: Result) -> str:
    text = whole(result)
    return code(text, "Python code that uses the best objective") if text else ""


def _costs(result: Result) -> str:
    picture = pictures.costs(result)
    return picture and picture + _soft("Area of a circle: memory. " + METHOD.format(steps=STEPS))


def _curves(result: Result) -> str:
    found = pictures.curves(result)
    title = METRICS[result.task.metric].title
    return found and _soft(f"{title} on validation by epoch, mean over seeds; the others in grey.") + found


def _effects(result: Result) -> str:
    parts = []
    for outcome in result.leaderboard():
        charts = pictures.effects(result, outcome)
        if charts:
            opened = " open" if outcome is result.chosen else ""
            parts.append(f"<details{opened}><summary>{escape(outcome.label)}</summary>{charts}</details>")
    title = METRICS[result.task.metric].title
    return _soft(f"{title} on validation of every trial; the ring is the chosen one.") + "".join(parts) if parts else ""


def _settings(result: Result) -> str:
    rows = [[o.label, _setting(o)] for o in result.leaderboard()]
    return table(["", "setting"], rows, "The best trial of each, which the final trainings used", _marks(result), text=1)


def _setting(outcome: Outcome) -> str:
    if outcome.best is not None:
        return setting(outcome.best.setting)
    return "none: every trial failed" if outcome.trials else "none: no trial ended"


def _notes(result: Result) -> str:
    failures = [f"failed: {o.label}: {reason}" for o in result.outcomes for reason in o.failures]
    return items([*result.notes, *failures]) if failures or result.notes else ""


def _method(result: Result) -> str:
    task, options = result.task, result.options
    found = result.as_json()
    sizes = ", ".join(f"{count} {part}" for part, count in task.split.sizes().items())
    facts = [
        f"Data {task.data.name}: {len(task.data)} rows, examples of shape {'x'.join(map(str, task.data.shape))}, "
        f"{len(task.data.labels)} classes; split into {sizes}. Fingerprint {task.data.fingerprint[:16]}.",
        f"The same encoder ({options.encoder}) with the same initial weights, the same order of the data, batches of "
        f"{task.batch} and {options.epochs * task.steps} steps for every objective.",
        f"{result.rounds} trials each: the first with the objective's defaults, the others by Optuna's TPE over the "
        f"learning rate and the objective's own ranges. A trial below the median of those before it is ended early, which "
        f"saved {100 * result.saved:.0f}% of the trials' steps. The setting with the best {METRICS[task.metric].title} on "
        f"validation was trained with {options.seeds} seeds.",
        f"Intervals: {DRAWS} resamplings of seeds and {task.unit}s together, widened by Student's t for few seeds. Tests: "
        f"{PERMUTATIONS} permutations.",
        *(f"{METRICS[m].title}: {METRICS[m].meaning}." for m in task.metrics),
        " ".join((conventions or "").split("\n\n", 1)[1].split()),
        f"Took {result.seconds:.0f} s in the last process.",
        ", ".join(f"{name} {value}" for name, value in found["environment"].items()),
    ]
    return items(facts) + code(options.command, "The command")
