"""A run that ends anywhere goes on: killed in every phase, interrupted, out of time or disk, shared by two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchlosses.cli import main
from torchlosses.compare import cost, final
from torchlosses.compare.options import Options
from torchlosses.compare.search import Search
from torchlosses.compare.store import Store
from torchlosses.compare.study import Study

BUDGET = ("--trials", "5", "--seeds", "2", "--epochs", "3", "--loss", "CrossEntropy", "--loss", "Focal", "--no-yardstick")

# Runs the command, and ends the process as a lost machine would at the n-th call of a function.
KILLER = """
import os, signal, sys
from torchlosses.cli import main
from torchlosses.compare import cost
if {without_cost}:
    cost._apart = lambda *arguments: None
{target_import}
calls = 0
original = {target}
def counted(*arguments, **keywords):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.{signal})
    return original(*arguments, **keywords)
{target} = counted
sys.exit(main(sys.argv[1:]))
"""
PHASES = {
    "claiming the directory": ("from torchlosses.compare.folder import Folder", "Folder._put", 1),
    "in a trial": ("from torchlosses.compare.tasks import Classification", "Classification.value", 75),
    "keeping a trial": ("import optuna", "optuna.Study.tell", 4),
    "in a final training": ("from torchlosses.compare import final", "final._packed", 3),
    "measuring cost": ("from torchlosses.compare import cost", "cost._apart", 2),
    "writing the report": ("from torchlosses.compare.folder import Folder", "Folder._put", 3),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    generator = np.random.default_rng(0)
    y = np.arange(150) % 3
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(path, x=generator.normal(size=(3, 6))[y] + generator.normal(size=(150, 6)), y=y)
    return str(path)


@pytest.fixture(scope="module")
def undisturbed(data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["compare", data, *BUDGET, "--out", str(out)]) == 0
    return measured(out)


def measured(out: Path) -> dict[str, Any]:
    """Everything in the results but times."""
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    for name in ("seconds", "environment", "command", "options", "notes"):
        del found[name]
    for objective in found["objectives"]:
        del objective["cost"]
        for trial in objective["trials"]:
            del trial["seconds"]
    return found


def killed(data: str, out: Path, phase: str, kind: str = "SIGKILL") -> subprocess.CompletedProcess[str]:
    target_import, target, call = PHASES[phase]
    without = "cost" not in phase
    script = KILLER.format(without_cost=without, target_import=target_import, target=target, call=call, signal=kind)
    command = [sys.executable, "-W", "ignore", "-c", script, "compare", data, *BUDGET, "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(autouse=True)
def without_cost(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A process for each objective takes seconds, and times are never compared."""
    if "cost" not in request.node.name:
        monkeypatch.setattr(cost, "_apart", lambda *arguments: None)


QUICK = ("in a trial", "in a final training", "writing the report")


@pytest.mark.parametrize("phase", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PHASES])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    phase: str, data: str, undisturbed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert killed(data, out, phase).returncode == -signal.SIGKILL
    assert main(["compare", data, *BUDGET, "--out", str(out)]) == 0
    assert measured(out) == undisturbed
    if phase == "in a final training":
        assert "going on: 11 trainings are finished" in capsys.readouterr().out
    if phase in ("in a trial", "in a final training"):
        store = Store(f"sqlite:///{out / 'study.db'}", Study(Options(data=data, **_options())).name)
        book = store.book("trials" if phase == "in a trial" else "final", "CrossEntropy")
        left = [t for t in book.study.get_trials() if t.user_attrs.get("left")]
        other = store.book("trials" if phase == "in a trial" else "final", "Focal")
        left += [t for t in other.study.get_trials() if t.user_attrs.get("left")]
        assert [trial.state.name for trial in left] == ["FAIL"]


def _options() -> dict[str, Any]:
    return {"trials": 5, "seeds": 2, "epochs": 3, "losses": ("CrossEntropy", "Focal"), "yardstick": False}


def test_an_interrupted_run_says_what_it_has_and_how_to_go_on(
    data: str, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = killed(data, out, "in a final training", "SIGINT")
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert f"to go on: torchlosses compare {data}" in done.stdout
    assert "1 of 4 final trainings; the same command goes on from there" in done.stdout.replace("\n", " ")
    half = json.loads((out / "results.json").read_text())
    assert half["ended"] == "interrupted"
    assert [len(o["runs"]) for o in half["objectives"]] == [1, 0]
    assert half["objectives"][0]["test"]["accuracy"]["mean"] is not None
    assert (out / "report.html").is_file()
    assert main(["compare", data, *BUDGET, "--out", str(out)]) == 0
    assert measured(out) == undisturbed


def test_more_time_goes_on_from_a_time_limit(
    data: str, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    step, calls = Search.step, []

    def late(self: Search, index: int, deadline: float) -> bool:
        calls.append(index)
        return step(self, index, deadline if len(calls) < 8 else 0.0)

    monkeypatch.setattr(Search, "step", late)
    assert main(["compare", data, *BUDGET, "--out", str(out)]) == 0
    early = json.loads((out / "results.json").read_text())
    assert (early["ended"], early["rounds"]) == ("time limit", 3)
    assert [len(o["trials"]) for o in early["objectives"]] == [3, 3]
    assert [len(o["runs"]) for o in early["objectives"]] == [2, 2]
    monkeypatch.setattr(Search, "step", step)
    assert main(["compare", data, *BUDGET, "--out", str(out)]) == 0
    assert measured(out) == undisturbed


def test_two_processes_share_one_study(data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        "import sys; from torchlosses.cli import main; from torchlosses.compare import cost; "
        "cost._apart = lambda *arguments: None; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, "compare", data, *BUDGET, "--out", str(out)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:
        shown, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
        assert "best on validation" in shown
    store = Store(f"sqlite:///{out / 'study.db'}", Study(Options(data=data, **_options())).name)
    for label in ("CrossEntropy", "Focal"):
        for kind, count in (("trials", 5), ("final", 2)):
            trials = store.book(kind, label).study.get_trials()
            kept = [t.user_attrs["index"] for t in trials if not t.user_attrs.get("left")]
            assert sorted(kept) == list(range(count))  # each unit once, by one of them


def test_a_unit_belongs_to_one_worker() -> None:
    book = Store(None, "x").book("trials", "y")
    unit = book.claim(0)
    assert unit is not None
    elsewhere = {"host": "another machine", "pid": 1, "began": 0.0}
    unit.trial.set_user_attr("owner", elsewhere)
    assert book.claim(0) is None  # it works there
    unit.trial.set_user_attr("beat", 0.0)
    again = book.claim(0)  # it has been silent for long
    assert again is not None
    again.finish({"value": 1}, 0.5)
    assert book.claim(0) is None
    assert book.finished()[0].user_attrs["record"] == {"value": 1}


LIMITED = """
import resource, signal, sys
from torchlosses.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("size", [pytest.param(0, marks=pytest.mark.slow), 60_000])
def test_a_full_disk_is_a_message_and_no_corrupt_study(
    size: int, data: str, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("resource", reason="limits of a process's files are POSIX")
    out = tmp_path / "out"
    script = LIMITED.format(size=size)
    command = [sys.executable, "-W", "ignore", "-c", script, "compare", data, *BUDGET, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot write" in done.stderr or "cannot keep the results" in done.stderr or "cannot open" in done.stderr
    assert main(["compare", data, *BUDGET, "--out", str(out)]) == 0
    assert measured(out) == undisturbed


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no directory here that even root cannot write")
def test_a_directory_that_cannot_be_written_is_a_message(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", data, *BUDGET, "--out", "/proc/self/out"]) == 2
    assert "cannot write to /proc/self/out" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_share_a_postgresql_study(data: str, tmp_path: Path) -> None:
    """Set TORCHLOSSES_POSTGRESQL to an address such as postgresql+psycopg://postgres@127.0.0.1/postgres; see docs."""
    address = os.environ.get("TORCHLOSSES_POSTGRESQL")
    if address is None:
        pytest.skip("TORCHLOSSES_POSTGRESQL does not name a server")
    command = [sys.executable, "-W", "ignore", "-m", "torchlosses", "compare", data, *BUDGET, "--storage", address]
    workers = [
        subprocess.Popen([*command, "--out", str(tmp_path / f"{k}")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for k in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
    assert measured(tmp_path / "0") == measured(tmp_path / "1")


def test_cost_is_measured_in_a_process_of_its_own(data: str) -> None:
    study = Study(Options(data=data, **_options()))
    study.measure()
    study.open()
    search = study._searches[0]
    found = cost.cost(study.task, search.contender, search.book)
    assert found is not None
    assert 0 < found.low_ms <= found.step_ms <= found.high_ms
    matrix = study.task.batch * 64 * 4
    assert matrix < found.peak < 100 * matrix
    assert cost.cost(study.task, search.contender, search.book) == found  # once for a study
    assert final.mark  # the phases above name it


@pytest.mark.parametrize("killed", [False, True])
def test_several_devices_find_what_one_finds(data: str, tmp_path: Path, killed: bool) -> None:
    pytest.importorskip("lightning_fabric", reason="the extra 'devices' is not installed")
    found = []
    for count in ("1", "2"):
        out = tmp_path / count
        assert main(["compare", data, "--devices", count, "--out", str(out), *BUDGET]) == 0
        kept = json.loads((out / "results.json").read_text())
        found.append({o["label"]: (o["setting"], o["test"], o["validation"]) for o in kept["objectives"]})
        if killed:
            break
    if killed:  # and a study that one device began may be finished by two
        assert main(["compare", data, "--devices", "2", "--out", str(tmp_path / "1"), *BUDGET]) == 0
    else:
        assert found[0] == found[1]
