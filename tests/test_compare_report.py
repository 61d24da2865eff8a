"""The report: code that runs as printed, and a page that works offline, in a real browser, on a phone and read aloud."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from torchlosses.compare.final import Run
from torchlosses.compare.folder import Folder
from torchlosses.compare.objectives import DEFAULTS
from torchlosses.compare.options import Options
from torchlosses.compare.report import page
from torchlosses.compare.results import Result
from torchlosses.compare.search import Trial
from torchlosses.compare.study import Study
from torchlosses.compare.usage import essence, whole

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def source(task: str, folder: Path) -> Options:
    """Small data for a task."""
    if task != "ranking":
        return Options(task=task, yardstick=False)
    path = folder / "ranking.npz"
    x = np.random.default_rng(0).normal(size=(90, 4))
    np.savez(path, x=x, y=np.arange(90) % 3, group=np.arange(90) // 6)
    return Options(str(path), task=task, yardstick=False)


def invented(options: Options) -> Result:
    """The result of a study in which every objective finished; numbers are drawn, not measured."""
    study = Study(replace(options, trials=3, seeds=2, epochs=4))
    study.measure()
    study.open()
    generator = np.random.default_rng(0)
    result = study.result("finished", 1.0)
    result.rounds = 3
    for outcome in result.outcomes:
        setting = outcome.contender.defaults()
        values = sorted(generator.random(3))
        outcome.trials = [Trial(k, setting, value, None, False, 4, 1.0) for k, value in enumerate(values)]
        outcome.best = outcome.trials[-1]
        for seed in range(2):
            each = {name: generator.random(20) for name in result.task.counted}
            means: dict[str, float | None] = {name: float(values.mean()) for name, values in each.items()}
            looks = ((2, 0.4), (4, 0.5))
            outcome.runs.append(Run(seed, means, means, each, (1.0, 0.9, 0.8, 0.7), looks))
    return result


@pytest.mark.parametrize("task", DEFAULTS)
def test_the_lines_of_code_run_as_printed(task: str, tmp_path: Path) -> None:
    result = invented(source(task, tmp_path))
    outcomes = result.outcomes
    assert len(outcomes) > 5
    for outcome in outcomes:
        result.outcomes = [outcome]
        text = whole(result)
        assert f"torchlosses.{outcome.label}(" in text and text.endswith("value.backward()")
        space: dict[str, object] = {}
        exec(compile(text, outcome.label, "exec"), space)
        assert space["value"].requires_grad  # type: ignore[attr-defined]
        assert all(line in text for line in essence(result))


class Outline(HTMLParser):
    """What a screen reader meets: headings, pictures and their names, tables and their headers, links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    result = invented(Options(losses=("CrossEntropy", "Focal", "ArcFace:margin=0.3", "CompSum")))
    Folder(out, {}).write(result)
    return out / "report.html"


def test_the_page_is_read_aloud_and_by_keyboard(report: Path) -> None:
    text = report.read_text("utf-8")
    outline = Outline(text)
    assert outline.all("html")[0]["lang"] == "en"
    assert len(outline.all("h1")) == 1
    assert all(attributes.get("aria-label") for attributes in outline.all("svg"))
    assert all(attributes.get("scope") in ("col", "row") for attributes in outline.all("th"))
    assert len(outline.all("table")) == len(outline.all("caption")) == 3
    named = {attributes.get("id") for _, attributes in outline.tags}
    assert all((attributes["href"] or "")[1:] in named for attributes in outline.all("a"))
    scrolled = [a for a in outline.all("div") if a.get("class") == "wide"] + outline.all("pre")
    assert scrolled and all(attributes.get("tabindex") == "0" and attributes.get("aria-label") for attributes in scrolled)


def test_the_page_needs_nothing_else_and_says_what_was_done(report: Path) -> None:
    text = report.read_text("utf-8")
    assert "http" not in text and "<script" not in text and "@import" not in text
    assert not re.search(r"url\((?!data:)", text)
    for words in ("torchlosses compare digits", "python 3", "share one split", "Holm", "o difference shown"):
        assert words in text
    assert "nan" not in re.sub(r"<[^>]*>", "", text).lower().split()


def test_a_result_without_final_trainings_still_has_a_page(tmp_path: Path) -> None:
    study = Study(Options(losses=("CrossEntropy",), trials=1, seeds=1, epochs=1, yardstick=False))
    study.measure()
    study.open()
    assert "No final training is finished yet" in page(study.result("interrupted", 1.0))


def browse(path: Path, profile: Path, width: int) -> tuple[str, str]:
    """The page as the browser has made it, and what its console says."""
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = [str(CHROMIUM), *flags.split(), "--disable-component-update", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_a_real_browser_shows_it_without_an_error_and_a_phone_without_scrolling_sideways(
    report: Path, tmp_path: Path
) -> None:
    probe = "<script>document.title = document.documentElement.scrollWidth <= innerWidth ? 'fits' : 'wider'</script>"
    broken = "<script>no.such.thing</script>"
    copy = tmp_path / "copy.html"
    copy.write_text(report.read_text("utf-8").replace("</body>", f"{probe}</body>"), "utf-8")
    shown, console = browse(copy, tmp_path / "profile", 500)
    assert console == ""
    assert "<title>fits</title>" in shown
    copy.write_text(report.read_text("utf-8").replace("</body>", f"{broken}</body>"), "utf-8")
    assert "no is not defined" in browse(copy, tmp_path / "profile", 500)[1]  # the console is really read
