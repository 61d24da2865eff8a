"""compare: splits without leaks, metrics as scikit-learn's, equal budgets, failures reported, files that belong to it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import torchlosses as tl
from torchlosses import catalog
from torchlosses.cli import main
from torchlosses.compare import data as inputs
from torchlosses.compare import splits
from torchlosses.compare.contenders import Trainee
from torchlosses.compare.devices import Device, device
from torchlosses.compare.folder import Folder
from torchlosses.compare.objectives import Objective, chosen, parse
from torchlosses.compare.options import Options
from torchlosses.compare.refusal import Refusal
from torchlosses.compare.search import Search
from torchlosses.compare.seeds import derive
from torchlosses.compare.store import Store
from torchlosses.compare.study import Study
from torchlosses.compare.tasks import TASKS
from torchlosses.compare.train import RATE, fit, output

SMALL = ("--trials", "2", "--seeds", "2", "--epochs", "2")


def blobs(count: int = 120, classes: int = 6, features: int = 8, seed: int = 0) -> inputs.Data:
    """Classes around centres of their own."""
    generator = np.random.default_rng(seed)
    y = np.arange(count) % classes
    centers = 3 * generator.normal(size=(classes, features))
    return inputs.checked("blobs", centers[y] + generator.normal(size=(count, features)), y)


def by_row(data: inputs.Data, seed: int) -> splits.Split:
    return splits.by_group(np.arange(len(data)), seed)


def saved(path: Path) -> str:
    found = blobs()
    np.savez(path, x=found.x, y=found.y)
    return str(path)


@pytest.mark.parametrize("split", [splits.by_example, splits.by_class, by_row])
def test_splits_share_no_row_and_lose_none_of_their_classes(split: object) -> None:
    data = blobs()
    parts = split(data, 0)  # type: ignore[operator]
    rows = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(rows.tolist()) == list(range(len(data.x)))
    labels = [set(data.y[part].tolist()) for part in (parts.train, parts.validation, parts.test)]
    if split is splits.by_class:
        assert not (labels[0] & labels[1] or labels[0] & labels[2] or labels[1] & labels[2])
        assert all(len(part) >= 2 for part in labels)
    elif split is splits.by_example:
        assert labels[0] == labels[1] == labels[2]


def test_scaling_knows_only_the_training_rows() -> None:
    data = blobs()
    train = np.arange(60)
    changed = data.x.copy()
    changed[60:] += 100
    assert (splits.scaled(changed, train)[:60] == splits.scaled(data.x, train)[:60]).all()
    assert splits.scaled(data.x, train)[:60].mean(axis=0) == pytest.approx(0, abs=1e-5)


def test_class_counts_and_examples_are_those_of_the_training_split() -> None:
    task = TASKS["classification"](blobs(), 0)
    assert task.facts["class_counts"].sum() == task.facts["examples"] == len(task.split.train)


def test_every_objective_starts_from_the_same_encoder_and_sees_the_same_data() -> None:
    task = TASKS["retrieval"](blobs(), 0)
    seen = []
    for name in ("CrossEntropy", "InfoNCE", "Circle"):
        objective = Objective(catalog.find(name).entry)
        setting = {RATE: 1e-12, **objective.defaults()}  # as good as no step
        fitted = fit(task, objective, setting, seed=3, epochs=1, max_steps=1)
        order = torch.Generator().manual_seed(3)
        seen.append((fitted.model.towers[0][1].weight.detach(), next(iter(task.epoch(order)))))  # type: ignore[index]
    for weight, rows in seen[1:]:
        assert torch.allclose(weight, seen[0][0], atol=1e-9)
        assert torch.equal(rows, seen[0][1])


def test_a_training_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    task = TASKS["classification"](blobs(), 0)
    objective = Objective(catalog.find("CrossEntropy").entry)
    before = torch.get_rng_state()
    fits = [fit(task, objective, {RATE: 1e-2}, seed=1, epochs=3) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    assert fits[0].curve == fits[1].curve
    assert (output(task, objective, fits[0], "test") == output(task, objective, fits[1], "test")).all()


def test_learnable_parameters_of_the_objective_are_trained() -> None:
    task = TASKS["pairs"](blobs(), 0)
    objective = Objective(catalog.find("SigLIP").entry)
    setting = {RATE: 1e-2, **objective.defaults()}
    start = objective.build(objective.defaults(), task.facts)
    fitted = fit(task, objective, setting, seed=0, epochs=2)
    moved = [not torch.equal(a, b) for a, b in zip(start.parameters(), fitted.loss.parameters(), strict=True)]
    assert moved and all(moved)


@pytest.mark.parametrize("task", ["classification", "retrieval", "pairs"])
def test_the_default_objectives_all_train(task: str) -> None:
    study = Study(Options(task=task, trials=1, seeds=1, epochs=1))
    study.measure()
    assert "CrossEntropy" in [objective.label for objective in study.objectives]
    assert study.notes == []


def test_seeds_depend_on_each_name() -> None:
    assert derive(0, "trial", 1) == derive(0, "trial", 1)
    assert len({derive(0, "trial", 1), derive(0, "trial", 2), derive(1, "trial", 1), derive(0, "final", 1)}) == 4


def test_the_search_repeats_itself_and_begins_with_the_defaults() -> None:
    task = TASKS["classification"](blobs(), 0)
    settings = []
    for _ in range(2):
        focal = Trainee(Objective(catalog.find("Focal").entry), Device())
        search = Search(task, focal, Store(None, "x").book("trials", "Focal"), seed=0, epochs=1, trials=4)
        assert all(search.step(index, math.inf) for index in range(4))
        assert not search.step(2, math.inf)  # it is finished
        settings.append([trial.setting for trial in search.trials()])
    assert settings[0] == settings[1]
    defaults = Objective(catalog.find("Focal").entry).defaults()
    assert {k: v for k, v in settings[0][0].items() if k != RATE} == defaults


def test_parsing_an_objective() -> None:
    objective = parse("crossentropyloss:label_smoothing=0.1")
    assert objective.label == "CrossEntropy:label_smoothing=0.1"
    assert "label_smoothing" not in objective.searched
    assert isinstance(objective.build({}, {}), tl.CrossEntropy)
    assert len(chosen("classification", ["all"])) > 1


def test_an_objective_that_cannot_read_the_task_is_refused() -> None:
    study = Study(Options(losses=("KTO",), trials=1, seeds=1, epochs=1))
    with pytest.raises(Refusal, match="KTO"):
        study.measure()


def test_the_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["compare", saved(tmp_path / "blobs.npz"), "--out", str(out), *SMALL]
    command += ["--loss", "CrossEntropy", "--loss", "ArcFace"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert shown.index("budget: 3 contenders x (2 trials + 2 seeds)") < shown.index("best on validation")
    results = json.loads((out / "results.json").read_text("utf-8"))
    assert results["ended"] == "finished"
    assert [len(o["trials"]) for o in results["objectives"]] == [2, 2, 2]  # the yardstick, too
    for objective in results["objectives"]:
        values = [run["test"]["accuracy"] for run in objective["runs"]]
        assert objective["test"]["accuracy"]["mean"] == pytest.approx(np.mean(values))
        assert objective["test"]["accuracy"]["std"] == pytest.approx(np.std(values, ddof=1))
        low, high = objective["test"]["accuracy"]["interval"]
        assert low <= np.mean(values) <= high
        assert ("yardstick" in objective["label"]) == (objective["cost"] is None)
    assert sum(o["against_best"] is None for o in results["objectives"]) == 1
    page = (out / "report.html").read_text("utf-8")
    assert "CrossEntropy" in page and "<svg" in page
    assert not re.search(r"(src|href)=(?![\"']?(data:|#))", page) and "http" not in page and "<script" not in page

    assert main(command) == 0  # the same study may be run again, with the same numbers
    again = json.loads((out / "results.json").read_text("utf-8"))
    assert [o["test"] for o in again["objectives"]] == [o["test"] for o in results["objectives"]]
    capsys.readouterr()
    assert main([*command, "--seed", "1"]) == 2  # another study may not
    assert "does not belong to this study" in capsys.readouterr().err


@tl.row_loss(accepts=["probability"])
def Breaking(scores: torch.Tensor, targets: object) -> torch.Tensor:
    """A loss that is never a number."""
    return scores.sum(1) * torch.nan


def test_nan_is_a_failed_trial_and_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Breaking.card = tl.CrossEntropy.card
    monkeypatch.setattr(tl, "Breaking", Breaking, raising=False)
    path = saved(tmp_path / "blobs.npz")
    options = Options(path, losses=("CrossEntropy", "Breaking"), trials=2, seeds=1, epochs=1, yardstick=False)
    study = Study(options)
    study.measure()
    result = study.run()
    first, last = result.leaderboard()
    assert first.label == "CrossEntropy" and first.failed == 0
    assert last.best is None and last.failed == 2 and not last.runs
    assert "became nan" in last.failures[0]
    folder = Folder.find(Options(path, out=str(tmp_path / "out")), study.task)
    folder.claim()
    folder.write(result)
    assert "became nan" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_the_time_limit_ends_with_what_is_finished(tmp_path: Path) -> None:
    path = saved(tmp_path / "blobs.npz")
    losses = ("CrossEntropy", "Focal")
    options = Options(path, losses=losses, trials=500, seeds=2, epochs=2, time_limit=1.5 / 60, yardstick=False)
    study = Study(options)
    study.measure()
    result = study.run()
    assert result.ended == "time limit"
    assert result.seconds < 3
    assert 0 < result.rounds < 500
    assert [len(o.trials) for o in result.outcomes] == [result.rounds] * 2
    assert all(o.finished for o in result.outcomes)
    assert any("time limit" in note for note in result.notes)


def test_fabric_on_the_cpu_trains_to_the_same_numbers() -> None:
    pytest.importorskip("lightning_fabric", reason="the extra 'devices' is not installed")
    task = TASKS["classification"](blobs(), 0)
    objective = Objective(catalog.find("ALDR").entry)
    setting = {RATE: 1e-2, **objective.defaults()}
    curves = [
        fit(task, objective, setting, seed=1, epochs=3, device=made).curve
        for made in (Device(), device(1, "32-true"), device(None, "bf16-mixed"))
    ]
    assert curves[0] == curves[1]
    assert curves[2] != curves[0] and curves[2] == pytest.approx(curves[0], rel=0.05)
