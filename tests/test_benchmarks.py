"""The benchmark machinery: spreads, the noise rule, peers that do not import, floors, memory. No timing is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import measure, memory, table
from benchmarks.works import ALL, PAIRED, Goal, Peer, Work

ROOT = Path(__file__).parents[1]


def head(rows=12, columns=10, features=4, **more):
    def load():
        return lambda q, k, y: torch.nn.functional.cross_entropy(q @ k.T, y)

    settings = {"products": 3, "targets": "classes", "goal": Goal(1.15, 1.0), **more}
    return Work("tiny", rows, columns, features, settings.pop("products"), load=load, **settings)


def timing(floor, ours=None, **peers):
    ours = [2.0] * len(floor) if ours is None else ours
    return measure.Timing({"floor": floor, "ours": ours, **peers})


def row(work=None, **more):
    settings = {
        "timing": timing([1.0] * 7, peer=[3.0] * 7),
        "repeats": 7,
        "height": 4,
        "products": 3.0,
        "values": {"ours": 1.0, "peer": 1.0},
        **more,
    }
    return table.Row(work or head(peers=(Peer("peer", dict),)), **settings)


def test_quartiles_are_those_of_the_sorted_sample():
    spread = measure.Spread.of([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (spread.low, spread.median, spread.high) == (2.0, 3.0, 4.0)
    assert spread.relative == pytest.approx(2 / 3)
    assert measure.Spread.of([7.0]).relative == 0


def test_ratios_are_taken_within_an_alternation():
    assert timing([1.0, 10.0, 2.0], [2.0, 20.0, 4.0]).ratio("ours", "floor").relative == 0


@pytest.mark.parametrize(("second", "noisy"), [([1.0] * 7, False), ([1.0, 2.0] * 4, True)])
def test_noisy_floors_are_measured_once_more(second, noisy):
    results = [timing([1.0, 2.0] * 4), timing(second), None]
    found = measure.twice_if_noisy(lambda: results.pop(0))
    assert results == [None] and found.noisy is noisy


def test_a_steady_floor_is_measured_once():
    results = [timing([1.0] * 7)]
    assert not measure.twice_if_noisy(lambda: results.pop()).noisy


def test_every_side_runs_once_per_alternation_after_a_warm_up():
    runs = []
    sides = {name: lambda name=name: runs.append(name) for name in ("floor", "ours", "peer")}
    found = measure.alternate(sides, 4)
    assert all(len(times) == 4 for times in found.seconds.values())
    assert runs[:3] == ["floor", "ours", "peer"] and runs[3:9] == ["floor", "ours", "peer", "ours", "peer", "floor"]


def test_noisy_rows_and_short_runs_claim_nothing():
    for unfit in (row(timing=timing([1.0, 2.0] * 4, peer=[3.0] * 8)), row(repeats=3)):
        (line,) = unfit.lines()
        assert not unfit.claims and not unfit.missed()
        assert "1.50x" not in line and ("noisy" in line or "too few" in line)
    (line,) = row().lines()
    assert "1.50x" in line and "2.00x" in line


def test_missed_goals_are_named_with_what_bounds_them():
    found = row(sections={"products": 0.9, "exp and log": 0.1}, memory={"ours": 10, "peer": 20})
    (note,) = found.notes()
    assert "2.00x the floor, goal 1.15x" in note and "products 90%" in note and "blocks of 4 rows" in note
    small = Goal(9.0, 1.0, memory=5, dense_share=0.2)
    assert len(row(head(goal=small, peers=(Peer("peer", dict),)), memory={"ours": 10, "peer": 20}).missed()) == 2


def test_differing_values_are_reported():
    assert any("values differ" in note for note in row(values={"ours": 1.0, "peer": 1.1}).notes())


def test_peers_that_do_not_import_are_named_and_skipped():
    def broken():
        raise RuntimeError("operator nms does not exist\nmore")

    def absent():
        import no_such_package_here  # noqa: F401

    calls, skipped = measure.loaded([Peer("a", broken), Peer("b", absent), Peer("c", lambda: len)])
    assert list(calls) == ["c"] and list(skipped) == ["a", "b"]
    assert skipped["a"] == "RuntimeError: operator nms does not exist"
    assert any("a skipped, it does not import" in note for note in row(skipped=skipped).notes())


@pytest.mark.parametrize("products", [3, 4])
def test_the_floor_makes_exactly_the_promised_products(products):
    work = head(rows=16, columns=16, products=products, targets=PAIRED)
    run = measure.floor(work, work.operands(), 5)
    with measure.Products(work) as made:
        run()
    assert made.count == products and made.height == 5


def test_products_of_a_call_are_counted():
    work = head()
    with measure.Products(work) as made:
        measure.forward_and_backward(work.load(), work.operands())()
    assert made.count == 3 and made.height == work.rows


KNOWN = """
import torch
from benchmarks import memory
torch.ones(8).exp()
with memory.peak() as found:
    x = torch.ones(16 << 20)
    del x
print(found.extra)
"""


def test_memory_of_a_known_allocation():
    size = 64 << 20
    # in a fresh process, as every measurement is: in an old one freed memory may be given out again
    done = subprocess.run([sys.executable, "-c", KNOWN], capture_output=True, text=True, check=True, cwd=ROOT)
    assert abs(int(done.stdout) - size) < size // 4


def test_memory_is_sampled_where_the_kernel_keeps_no_peak(monkeypatch):
    monkeypatch.setattr(memory, "_reset", lambda: False)
    with memory.peak() as found:
        x = torch.ones(16 << 20)
        x.exp().exp()
        del x
    assert found.extra > 48 << 20


def test_every_work_says_what_it_is():
    assert len({w.name for w in ALL}) == len(ALL)
    for work in ALL:
        left, right, labels = work.operands(16, 16)
        assert left.shape == (16, work.features) and labels.shape == (16,)
        assert (right is None) == (work.targets == "groups")


def test_the_command_prints_a_table_and_writes_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "WORKS", (head(peers=(Peer("dense", head().load),)),))
    monkeypatch.setattr(memory, "in_fresh_process", lambda work, side: 1 << 20)
    file = tmp_path / "found.json"
    assert command.main(["--repeats", "2", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "tiny 12 x 10 x 4" in shown and "dense" in shown and "1 MiB" in shown and "extra memory" in shown
    (work,) = json.loads(file.read_text())["works"]
    assert len(work["seconds"]["dense"]) == 2 and work["products"] == 3 and not work["claims"]


@pytest.mark.parametrize("wrong", [["--only", "nothing"], ["--repeats", "0"], ["--repeats", "many"]])
def test_wrong_arguments_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(wrong)
    assert stopped.value.code == 2 and "expected" in capsys.readouterr().err
