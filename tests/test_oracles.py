"""Agreement with golden numbers: every case is mapped or pending, and every mapped one agrees, dense and blocked."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tests.mapping
import torchlosses as tl
from tests.mapping import MAPPING, Case

for module in pkgutil.iter_modules(tests.mapping.__path__):
    importlib.import_module(f"tests.mapping.{module.name}")

PENDING = {
    line.strip()
    for line in (Path(__file__).parent / "oracles" / "pending.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
}


def families(directory: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "entry" in metafunc.fixturenames:
        directory = Path(metafunc.config.getoption("--oracles"))
        found = [
            pytest.param(family, entry, mode, id=f"{entry['recipe']}:{entry['case']}:{mode}")
            for family, entries in families(directory).items()
            for entry in entries
            for mode in ("dense", "blocked")
            if entry["recipe"] in MAPPING
        ]
        metafunc.parametrize(("family", "entry", "mode"), found)


_ARRAYS: dict[tuple[str, str], Any] = {}


def arrays(directory: str, family: str, case: str) -> dict[str, Any]:
    key = (directory, family)
    if key not in _ARRAYS:
        grouped: dict[str, dict[str, Any]] = {}
        with np.load(Path(directory) / f"{family}.npz", allow_pickle=False) as held:
            for name in held.files:
                owner, _, rest = name.partition("/")
                grouped.setdefault(owner, {})[rest] = held[name]
        _ARRAYS[key] = grouped
    return _ARRAYS[key].get(case, {})


def agree(
    name: str,
    ours: torch.Tensor,
    golden: torch.Tensor,
    relative: float,
    absolute: float,
    mask: torch.Tensor | None,
) -> str | None:
    ours = ours.detach().to(torch.float64).reshape(-1) if ours.numel() == golden.numel() else ours.detach().to(torch.float64)
    golden = golden.to(torch.float64).reshape(-1)
    if ours.shape != golden.shape:
        return f"{name}: expected {tuple(golden.shape)}, got {tuple(ours.shape)}"
    if mask is not None:
        ours, golden = ours[mask.reshape(-1)], golden[mask.reshape(-1)]
    if not golden.numel():
        return None
    scale = golden.abs().max() if name.startswith("grad.") else golden.abs()
    wrong = (ours - golden).abs() > relative * scale + absolute
    wrong |= ~torch.isfinite(ours)
    if wrong.any():
        i = int((ours - golden).abs().nan_to_num(torch.inf).argmax())
        return f"{name}: {int(wrong.sum())} of {golden.numel()} differ; at {i} expected {golden[i]:.15g}, got {ours[i]:.15g}"
    return None


def test_case(family: str, entry: dict[str, Any], mode: str, request: pytest.FixtureRequest, record_property: Any) -> None:
    slip = "slip" in entry
    record_property("oracle", "slip" if slip else "failed")
    if slip:
        return
    case = Case(entry, arrays(request.config.getoption("--oracles"), family, entry["case"]))
    torch.manual_seed(0)
    limits = {"block": 256, "dense": 0} if mode == "blocked" else {"dense": 1 << 30}
    with tl.memory_budget(**limits):
        computed = MAPPING[entry["recipe"]](case)
        outputs = computed if isinstance(computed, dict) else {"loss": computed}
        wanted = [k for k, t in case.inputs.items() if t.requires_grad and f"grad.{k}" not in outputs]
        gradients = {}
        if wanted and outputs["loss"].requires_grad:
            of = str(entry.get("gradient_of") or entry.get("grad_of") or "")
            root = outputs["loss"].mean() if of.startswith("mean over rows") else outputs["loss"].sum()
            found = torch.autograd.grad(root, [case[k] for k in wanted], allow_unused=True)
            gradients = {k: torch.zeros_like(case[k]) if g is None else g for k, g in zip(wanted, found, strict=True)}
        elif wanted:
            gradients = {k: torch.full_like(case[k], torch.nan) for k in wanted}
    tolerance = entry["tolerance"]
    problems = []
    for name, ours in outputs.items():
        key = name if name.startswith("grad.") else f"out.{name}"
        relative = tolerance["grad"] if name.startswith("grad.") else tolerance["value"]
        problems.append(agree(key, ours, case.golden(key), relative, tolerance["atol"], None))
    for key, ours in gradients.items():
        mask = case.arrays.get(f"gradmask.{key}")
        allowed = None if mask is None else torch.as_tensor(mask).bool()
        problems.append(
            agree(f"grad.{key}", ours, case.golden(f"grad.{key}"), tolerance["grad"], tolerance["atol"], allowed)
        )
    problems = [p for p in problems if p]
    assert not problems, f"{entry['case']} ({entry.get('call')}; {entry.get('notes')}): " + "; ".join(problems)
    record_property("oracle", "passed")


def test_every_recipe_is_mapped_or_pending(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    present = Counter(e["recipe"] for es in families(Path(request.config.getoption("--oracles"))).values() for e in es)
    unknown = sorted(set(present) - set(MAPPING) - PENDING)
    assert not unknown, f"neither mapped nor pending: {unknown}"
    both = sorted(set(MAPPING) & PENDING)
    assert not both, f"mapped, so no longer pending: {both}"
    with capsys.disabled():
        print(f"\ngolden cases pending: {sum(n for r, n in present.items() if r in PENDING)}")
