"""What compare reads: files of every kind, columns, encoders, tasks; and what it refuses, before any training."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchlosses.cli import main
from torchlosses.compare.data import Data, checked, load
from torchlosses.compare.options import Options
from torchlosses.compare.plan import task_of
from torchlosses.compare.refusal import Refusal
from torchlosses.compare.study import Study
from torchlosses.compare.table import read
from torchlosses.compare.tasks import Classification, Pairs, Ranking, Retrieval
from torchlosses.compare.yardsticks import yardstick

GENERATOR = np.random.default_rng(0)
ROWS = 60
NUMBERS = GENERATOR.normal(size=(ROWS, 3))
CLASSES = np.array(["a", "b", "c"])[np.arange(ROWS) % 3]


def ranking_lines(path: Path, queries: int = 14, documents: int = 6) -> str:
    """LibSVM lines with the sizes beside them; the first query has one grade, the second nothing relevant."""
    lines = []
    for query in range(queries):
        for k in range(documents):
            grade = 2 if query == 0 else 0 if query == 1 else k % 3
            lines.append(f"{grade} 1:{grade + GENERATOR.normal():.3f} 3:{GENERATOR.normal():.3f}")
    path.write_text("\n".join(lines) + "\n")
    path.with_name(path.name + ".query").write_text(f"{documents}\n" * queries)
    return str(path)


def written(path: Path, columns: dict[str, Any]) -> str:
    """The columns as a file of the kind that its name says."""
    if path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for row in zip(*columns.values(), strict=True):
                writer.writerow([json.dumps(v.tolist()) if isinstance(v, np.ndarray) else v for v in row])
    else:
        datasets = pytest.importorskip("datasets", reason="the extra 'data' is not installed")
        plain = {n: [v.tolist() if isinstance(v, np.ndarray) else v for v in values] for n, values in columns.items()}
        found = datasets.Dataset.from_dict(plain)
        if path.suffix == ".parquet":
            found.to_parquet(str(path))
        else:
            found.save_to_disk(str(path))
    return str(path)


@pytest.mark.parametrize("name", ["data.npz", "data.csv", "data.parquet", "saved"])
def test_every_kind_of_file_holds_the_same(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, {"x": NUMBERS, "kind": CLASSES})
    data = load(Options(path, label="kind"))
    assert np.allclose(data.x, NUMBERS, atol=1e-6)
    assert data.labels == ("a", "b", "c")
    assert (data.y == np.arange(ROWS) % 3).all()


@pytest.mark.parametrize("name", ["data.csv", "data.parquet"])
def test_numeric_columns_are_features(name: str, tmp_path: Path) -> None:
    columns = {"width": NUMBERS[:, 0], "label": CLASSES, "height": NUMBERS[:, 1], "owner": np.arange(ROWS) // 4}
    data = load(Options(written(tmp_path / name, columns), group="owner"))
    assert np.allclose(data.x, NUMBERS[:, :2], atol=1e-6)
    assert data.group is not None and len(np.unique(data.group)) == ROWS // 4


def test_groups_are_never_divided(tmp_path: Path) -> None:
    columns = {"x": NUMBERS, "y": np.arange(ROWS) % 3, "owner": np.arange(ROWS) // 4}
    task = task_of(Options(written(tmp_path / "data.npz", columns), group="owner"))
    owners = [set((part // 4).tolist()) for part in (task.split.train, task.split.validation, task.split.test)]
    assert not (owners[0] & owners[1] or owners[0] & owners[2] or owners[1] & owners[2])


def test_ranking_files(tmp_path: Path) -> None:
    path = ranking_lines(tmp_path / "rank.train")
    task = task_of(Options(path, task="ranking"))
    assert isinstance(task, Ranking)
    assert task.x.shape[1] == 3
    assert task.notes == ["2 of 14 groups have no relevant document or one grade only: they carry no loss and no metric"]
    queries = [set((part // 6).tolist()) for part in (task.split.train, task.split.validation, task.split.test)]
    assert sum(map(len, queries)) == len(set.union(*queries)) == 12
    for part, lists in task.lists.items():
        assert sorted(lists[lists >= 0].tolist()) == getattr(task.split, part).tolist()


def test_query_numbers_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rank.svm"
    path.write_text("".join(f"{k % 2} qid:{k // 5} 1:{k}\n" for k in range(60)))
    _, table = read(str(path))
    assert (table["group"] == np.arange(60) // 5).all()


def test_several_labels(tmp_path: Path) -> None:
    hot = GENERATOR.random((ROWS, 4)) < 0.4
    hot[0] = False
    task = task_of(Options(written(tmp_path / "data.npz", {"x": NUMBERS, "y": hot})))
    assert isinstance(task, Classification) and task.several
    assert task.metrics == ("label_map", "top_right")
    with pytest.raises(Refusal, match="several labels"):
        task_of(Options(str(tmp_path / "data.npz"), noise=0.1))


def test_noise_and_imbalance_touch_the_training_labels_alone() -> None:
    data = checked("x", GENERATOR.normal(size=(600, 2)), np.arange(600) % 3)
    plain = Classification(data, 0)
    noisy = Classification(data, 0, noise=0.25)
    assert (noisy.y != plain.y).float().mean() == pytest.approx(0.25, abs=0.01)
    assert (noisy.data.y == plain.data.y).all()
    rare = Classification(data, 0, imbalance=10.0)
    counts = sorted(torch.bincount(rare.y).tolist())
    assert counts[2] == 120 and counts[0] == 12 and counts[1] == round(120 / 10**0.5)
    assert rare.facts["class_counts"].tolist() == torch.bincount(rare.y).tolist()
    assert (rare.split.test == plain.split.test).all()


def test_pairs_with_graded_judgements(tmp_path: Path) -> None:
    left = np.repeat(np.arange(15.0), 4)[:, None] * [1.0, -1.0]
    right = (np.arange(60.0) % 10)[:, None] * [1.0, 2.0, 3.0]
    grade = np.tile([0, 1, 2, 3], 15)
    grade[:4] = 0  # the first left side has nothing relevant
    path = written(tmp_path / "data.npz", {"q": left, "d": right, "grade": grade})
    task = task_of(Options(path, task="pairs", left="q", right="d", label="grade"))
    assert isinstance(task, Pairs)
    assert task.metrics[0] == "ndcg_at_10"
    assert "1 left sides have no right one" in task.notes[0]
    lefts, rights = task.sides("test")
    assert len(rights) == 10  # the whole collection
    perfect = task.grades[task.query[lefts]][:, task.item[rights]].toarray()
    assert task.judge("test", perfect).mean("ndcg_at_10") == 1.0
    batch = next(iter(task.epoch(torch.Generator().manual_seed(0))))
    assert (task.data.y[task.positive[batch]] > 0).all()


def test_a_class_of_one_example_is_left_out_of_retrieval() -> None:
    y = np.append(np.arange(59) % 6, 6)
    task = Retrieval(checked("x", NUMBERS, y), 0)
    assert "1 examples are the only ones of their class" in task.notes[0]
    assert 59 not in np.concatenate([task.split.train, task.split.validation, task.split.test])


def tower(shape: tuple[int, ...]) -> torch.nn.Module:
    """A user's own encoder."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(int(np.prod(shape)), 7))


@pytest.mark.parametrize(("encoder", "width"), [("mlp", 64), ("linear", 64), ("conv", 64), ("own_encoder:tower", 7)])
def test_encoders(encoder: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_encoder", sys.modules[__name__])
    study = Study(Options(losses=("CrossEntropy",), encoder=encoder, trials=1, seeds=1, epochs=1, yardstick=False))
    assert study.task.width == width
    study.measure()


def test_text_columns_go_through_the_sentence_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchlosses.compare import plan

    words = np.array([f"text {k % 20}" for k in range(ROWS)])
    path = written(tmp_path / "data.csv", {"said": words, "label": CLASSES})
    asked: list[list[str]] = []

    def embed(texts: list[str]) -> Any:
        asked.append(texts)
        return np.array([[float(text.split()[1]), 1.0] for text in texts], dtype=np.float32)

    monkeypatch.setattr(plan, "sentences", lambda encoder: embed)
    task = task_of(Options(path, text="said", encoder="text:somewhere"))
    assert len(asked[0]) == 20  # each text once
    assert task.x[:20, 0].tolist() == list(range(20))  # as the encoder says, not scaled
    assert task.width == 2


def test_text_pairs_stand_beside_the_encoder_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchlosses.compare import plan

    spoken = {"q": [f"question {k}" for k in range(ROWS)], "a": [f"answer {k}" for k in range(ROWS)]}
    path = written(tmp_path / "data.csv", spoken)
    directions = np.random.default_rng(0).normal(size=(ROWS, 8)).astype(np.float32)
    monkeypatch.setattr(plan, "sentences", lambda _: lambda texts: directions[[int(t.split()[1]) for t in texts]])
    options = Options(path, task="pairs", left="q", right="a", encoder="text:somewhere", trials=2, seeds=2, epochs=1)
    study = Study(options)
    study.contenders = [yardstick(study.task)]  # type: ignore[list-item]
    (outcome,) = study.run().outcomes
    assert outcome.label == "yardstick: encoder as it is"
    assert outcome.mean("recall_at_1") == 1.0
    assert [trial.setting for trial in outcome.trials] == [{}, {}]


def test_a_ranking_from_file_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ranking_lines(tmp_path / "rank.train")
    out = tmp_path / "out"
    command = ["compare", path, "--task", "ranking", "--loss", "ListNet", "--loss", "RankNet", "--out", str(out)]
    assert main([*command, "--trials", "1", "--seeds", "1", "--epochs", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("2 of 14 groups") == 1
    assert "NDCG@10" in shown
    assert json.loads((out / "results.json").read_text())["metric"] == "ndcg_at_10"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    try:
        code = main(["compare", *arguments])
    except SystemExit as stop:
        code = int(str(stop.code))
    shown = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in shown.err
    return shown.err


GOOD = {"a": NUMBERS[:, 0], "b": NUMBERS[:, 1], "label": CLASSES}
BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no column 'kind'": (GOOD, ["--label", "kind"]),
    "--group: no column 'query'": (GOOD, ["--group", "query"]),
    "a: expected numbers, got 'many' in row 3": (GOOD | {"a": np.where(np.arange(ROWS) == 3, "many", "1")}, []),
    "b: expected finite numbers, got NaN or infinity in row 5": (
        GOOD | {"b": [1.0 if k != 5 else "" for k in range(ROWS)]},
        [],
    ),
    "lists of unequal lengths: 1 to 2": (GOOD | {"a": ["[1]" if k else "[1,2]" for k in range(ROWS)]}, []),
    "--left and --right: one needs the other": (GOOD, ["--task", "pairs", "--left", "a"]),
    "they are for the task pairs": (GOOD, ["--left", "a", "--right", "b"]),
    "give a sentence encoder with --encoder text:PATH": (GOOD, ["--text", "label", "--label", "a"]),
    "column 'a' holds no text": (GOOD, ["--text", "a"]),
    "ranking needs groups": (GOOD | {"label": np.arange(ROWS)}, ["--task", "ranking"]),
    "label: expected a grade": (GOOD | {"g": np.arange(ROWS) // 5}, ["--task", "ranking", "--group", "g"]),
    "nothing is left to train on": (
        GOOD | {"label": np.zeros(ROWS), "g": np.arange(ROWS) // 5},
        ["--task", "ranking", "--group", "g"],
    ),
    "at least 10 groups": (
        GOOD | {"label": np.arange(ROWS) % 2, "g": np.arange(ROWS) // 10},
        ["--task", "ranking", "--group", "g"],
    ),
    "grades of at least 0, got -1": (
        GOOD | {"label": np.arange(ROWS) % 3 - 1, "g": np.arange(ROWS) // 5},
        ["--task", "ranking", "--group", "g"],
    ),
    "grades of at most 30": (GOOD | {"label": np.arange(ROWS)}, ["--task", "pairs", "--left", "a", "--right", "b"]),
    "no left side has a right one": (
        GOOD | {"label": np.zeros(ROWS)},
        ["--task", "pairs", "--left", "a", "--right", "b"],
    ),
    "got fractions": (GOOD | {"label": np.linspace(0, 1, ROWS)}, []),
    "at least two classes, got one": (GOOD | {"label": ["a"] * ROWS}, []),
    "class c has 1": (GOOD | {"label": ["a", "b"] * 29 + ["a", "c"]}, []),
    "expected mlp, conv, linear, text:PATH or module:function; got 'big'": (GOOD, ["--encoder", "big"]),
    "cannot import 'no_such_module:make'": (GOOD, ["--encoder", "no_such_module:make"]),
    "cannot import 'math:no_such_function'": (GOOD, ["--encoder", "math:no_such_function"]),
    "it does not work on examples of shape (2,)": (GOOD, ["--encoder", "math:sqrt"]),
    "expected images of at least 4 x 4": (GOOD, ["--encoder", "conv"]),
    "no sentence encoder at": (GOOD, ["--encoder", "text:/no/such/model", "--text", "label", "--label", "a"]),
    "a share of at least 0": (GOOD, ["--noise", "1.5"]),
    "a number of at least 1": (GOOD, ["--imbalance", "0.5"]),
    "they are for classification": (GOOD, ["--task", "pairs", "--noise", "0.2"]),
    "retrieval needs one class": (GOOD | {"label": ["[0,1]"] * ROWS}, ["--task", "retrieval"]),
    "expected zeros and ones": (GOOD | {"label": ["[0,2]"] * ROWS}, []),
    "--storage: cannot open": (GOOD, ["--storage", "nothing://x", "--trials", "1", "--seeds", "1", "--epochs", "1"]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_has_its_message(message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns, arguments = BAD[message]
    path = written(tmp_path / "data.csv", columns)
    out = tmp_path / "out"
    assert message in refused(capsys, path, "--loss", "CrossEntropy", "--out", str(out), *arguments)
    assert not (out / "results.json").exists()


BROKEN = {
    "data.csv": (b"a,b\n1\n", "line 2: expected 2 cells, got 1"),
    "twice.csv": (b"a,a\n1,2\n", "two columns have the same name"),
    "latin.csv": (b"a,b\n\xff\xfe,1\n", "cannot read"),
    "data.npz": (b"PK nothing", "cannot read"),
    "data.parquet": (b"PAR1 nothing", "cannot read"),
    "data.svm": (b"1 qid:1 2:x\n", "cannot read"),
    "plain.svm": (b"1 1:2\n0 1:3\n", "no query sizes"),
    "data.xls": (b"", "expected digits, a .npz"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_unreadable_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="the extra 'data' is not installed")
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    assert message in refused(capsys, str(tmp_path / name), "--task", "ranking")


def test_query_sizes_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ranking_lines(tmp_path / "rank.train")
    (tmp_path / "rank.train.query").write_text("3\n4\n")
    assert "counts 7 lines in 2 queries, the file has 84" in refused(capsys, path, "--task", "ranking")


def test_dataset_directories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra 'data' is not installed")
    assert "no saved dataset" in refused(capsys, str(tmp_path))
    whole = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"x": NUMBERS.tolist(), "y": CLASSES.tolist()})})
    whole.save_to_disk(str(tmp_path / "saved"))
    assert "several splits (train)" in refused(capsys, str(tmp_path / "saved"))
    assert isinstance(load(Options(str(tmp_path / "saved" / "train"))), Data)


def test_a_packages_absence_is_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "data.parquet").write_bytes(b"")
    assert "torchlosses[data]" in refused(capsys, str(tmp_path / "data.parquet"))


def test_unseen_names_the_classes_that_are_tested_on() -> None:
    task = task_of(Options(task="retrieval", unseen=("5", "6", "7", "8", "9")))
    parts = {part: set(task.data.y[getattr(task.split, part)]) for part in ("train", "validation", "test")}
    assert parts["test"] == {5, 6, 7, 8, 9}
    assert len(parts["train"]) == 3 and len(parts["validation"]) == 2
    assert not parts["train"] & parts["validation"]
    assert "--unseen 5,6,7,8,9" in Options(task="retrieval", unseen=("5", "6", "7", "8", "9")).command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(task="retrieval", unseen=("5", "x")), "no class 'x'"),
        (Options(task="retrieval", unseen=("5",)), "at least 2 classes"),
        (Options(task="retrieval", unseen=tuple("3456789")), "at least 4 others"),
        (Options(task="pairs", unseen=("5", "6")), "for retrieval"),
        (Options(unseen=("5", "6")), "for retrieval"),
    ],
)
def test_unseen_classes_that_cannot_be_are_refused(options: Options, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        task_of(options)
