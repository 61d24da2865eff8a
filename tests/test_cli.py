"""The command line: list and show with the core alone, refusals with exit code 2 and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from torchlosses.cli import main

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
for name in [m for m in sys.modules if m.partition(".")[0] in {blocked!r}]:
    del sys.modules[name]
sys.meta_path.insert(0, Blocker())
from torchlosses.cli import main
code = 0
for arguments in {commands!r}:
    code = main(arguments)
sys.exit(code)
"""
EXTRA = ["numpy", "optuna", "plotly", "rich", "sklearn", "scipy", "psutil"]


def core_alone(*commands: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs the commands in a process in which no package of the extra can be imported."""
    script = BLOCKED.format(blocked=EXTRA, commands=list(commands))
    return subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message on stderr of a refused command."""
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse's own refusals
        code = int(str(stop.code))
    shown = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in shown.err
    return shown.err


def test_list_and_show_need_the_core_alone() -> None:
    done = core_alone(["list", "--task", "classification"], ["show", "crossentropy"])
    assert done.returncode == 0, done.stderr
    assert "CrossEntropy" in done.stdout
    assert "label_smoothing" in done.stdout


@pytest.mark.parametrize("command", [["compare", "digits"], ["show", "crossentropy", "--plot", "x.html"]])
def test_other_commands_name_their_extra(command: list[str]) -> None:
    done = core_alone(command)
    assert done.returncode == 2
    assert "torchlosses[compare]" in done.stderr
    assert "Traceback" not in done.stderr


def test_list_filters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--search", "z-loss"]) == 0
    shown = capsys.readouterr().out
    assert "LogPartitionPenalty" in shown
    assert "CrossEntropy " not in shown
    assert main(["list", "--search", "nothing like this"]) == 0
    assert "no objective matches" in capsys.readouterr().out


def test_show_says_that_an_alias_led_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "crossentropyloss"]) == 0
    assert "CrossEntropyLoss is an alias of CrossEntropy" in capsys.readouterr().out


def test_show_prints_every_card(capsys: pytest.CaptureFixture[str]) -> None:
    from torchlosses import catalog

    for entry in catalog.entries():
        assert main(["show", entry.name]) == 0
        assert entry.card.identifier.split()[0] in capsys.readouterr().out


def test_show_plot_writes_a_page_that_needs_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "curve.html"
    assert main(["show", "CrossEntropy", "--plot", str(target)]) == 0
    text = target.read_text("utf-8")
    assert "<script src=" not in text and "gradient" in text
    assert "ends in .html" in refused(capsys, "show", "CrossEntropy", "--plot", str(tmp_path / "curve.png"))
    assert "cannot write" in refused(capsys, "show", "CrossEntropy", "--plot", str(tmp_path / "no" / "curve.html"))


def test_the_drawn_curve_is_the_loss() -> None:
    from torchlosses import catalog
    from torchlosses.compare.curve import curves

    right, wrong = curves(catalog.find("CrossEntropy").entry)
    middle = len(right.score) // 2
    assert right.score[middle] == 0
    assert right.value[middle] == pytest.approx(np.log(2))
    assert right.gradient[middle] == pytest.approx(-0.5)
    assert wrong.gradient[middle] == pytest.approx(0.5)


def test_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean CrossEntropy" in refused(capsys, "show", "CrosEntropy")
    assert "unknown family" in refused(capsys, "list", "--family", "nothing")
    assert "--task" in refused(capsys, "list", "--task", "nothing")
    assert "COMMAND" in refused(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-file.npz"], "no such file"),
        (["data.csv"], "no such file"),
        (["data.xls"], "expected digits, a .npz, .csv or .parquet file"),
        (["digits", "--loss", "CrosEntropy"], "did you mean CrossEntropy"),
        (["digits", "--loss", "CrossEntropy:smooth=0.1"], "unknown parameter 'smooth'"),
        (["digits", "--loss", "CrossEntropy:label_smoothing=2"], "expected a number in [0, 1], got 2.0"),
        (["digits", "--loss", "CrossEntropy:label_smoothing=much"], "label_smoothing: expected a number"),
        (["digits", "--loss", "CrossEntropy:label_smoothing"], "expected param=value"),
        (["digits", "--loss", "CrossEntropy", "--loss", "crossentropy"], "given twice"),
        (["digits", "--trials", "0"], "at least 1"),
        (["digits", "--time-limit", "-1"], "minutes above 0"),
        (["digits", "--task", "nothing"], "invalid choice"),
    ],
)
def test_compare_refuses_before_any_training(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert message in refused(capsys, "compare", *arguments, "--out", str(out))
    assert not out.exists()


def examples(count: int = 60, classes: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {"x": generator.normal(size=(count, 4)), "y": np.arange(count) % classes}


BAD_DATA = {
    "NaN or infinity in row 7": {"x": np.where(np.arange(60)[:, None] == 7, np.nan, np.ones((60, 4)))},
    "at least two classes, got one": {"y": np.zeros(60, dtype=int)},
    "one label for each row of x (60), got 59": {"y": np.arange(59) % 3},
    "class 1 has 2": {"y": np.array([0] * 58 + [1] * 2)},
    "got fractions": {"y": np.linspace(0, 1, 60)},
    "expected numbers": {"x": np.full((60, 4), "a")},
    "expected shape (examples, features...)": {"x": np.ones(60)},
    "cannot read": {"x": np.array([{}] * 60)},
}


@pytest.mark.parametrize("message", BAD_DATA)
def test_bad_data_is_refused(message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **{**examples(), **BAD_DATA[message]})
    assert message in refused(capsys, "compare", str(path), "--out", str(tmp_path / "out"))


def test_data_without_its_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, features=np.ones(3))
    assert "expected arrays x and y" in refused(capsys, "compare", str(path))
    path.write_bytes(b"not an archive")
    assert "cannot read" in refused(capsys, "compare", str(path))


def test_retrieval_needs_classes_to_spare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **examples(classes=5))
    assert "at least 6" in refused(capsys, "compare", str(path), "--task", "retrieval")


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **examples())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert "choose another directory" in refused(
        capsys, "compare", str(path), "--loss", "CrossEntropy", "--out", str(tmp_path / "out")
    )
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]
