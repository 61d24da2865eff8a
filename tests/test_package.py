"""What importing the package costs, and what it promises by name."""

from __future__ import annotations

import inspect
import subprocess
import sys

import torchlosses as tl

PROBE = """
import sys
import torch
before = {name.partition(".")[0] for name in sys.modules}
import torchlosses
after = {name.partition(".")[0] for name in sys.modules} - before
print(sorted(after - set(sys.stdlib_module_names)))
"""


def test_core_imports_torch_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['torchlosses']"


def test_public_names_are_listed_and_documented() -> None:
    assert sorted(set(tl.__all__)) == sorted(tl.__all__)
    visible = {n for n, v in vars(tl).items() if not n.startswith("_") and not inspect.ismodule(v)}
    assert visible == set(tl.__all__)
    for name in tl.__all__:
        thing = getattr(tl, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, name


def test_every_objective_has_a_card() -> None:
    abstract = {
        "Loss",
        "RowLoss",
        "SetLoss",
        "Wrapper",
        "Miner",
        "SigmoidLoss",
        "TargetProbability",
        "Normalized",
        "Divergence",
        "MarginSoftmax",
    }
    losses = {
        n: getattr(tl, n) for n in tl.__all__ if inspect.isclass(getattr(tl, n)) and issubclass(getattr(tl, n), tl.Loss)
    }
    for name, loss in losses.items():
        wraps = issubclass(loss, tl.Wrapper) or name == "Symmetric"
        if name not in abstract and not wraps:
            assert loss.card is not None, name
            assert loss.card.title and loss.card.formula and loss.card.purpose, name
            assert loss.card.year > 1900, name
            assert loss.__doc__ and ">>>" in loss.__doc__, name


def test_hyperparameters_are_declared_with_search_ranges_inside_their_bounds() -> None:
    for name in tl.__all__:
        loss = getattr(tl, name)
        if inspect.isclass(loss) and issubclass(loss, tl.Loss):
            for key, hyper in loss.hyperparameters().items():
                if hyper.search is not None and hyper.kind in ("real", "integer"):
                    assert hyper.low <= hyper.search.low < hyper.search.high <= hyper.high, (name, key)
                    assert not hyper.search.log or hyper.search.low > 0, (name, key)
