"""Measured rows and how they are written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import LEAST_REPEATS, Spread, Timing
from benchmarks.works import Work

MIB = 1 << 20
HEADER = (
    "work",
    "ours",
    "peer",
    "",
    "ratio",
    "floor",
    "share of the floor",
    "extra memory ours",
    "peer",
)
LEGEND = """\
Forward and backward, median [quartiles] of {repeats} alternations in one run.
ratio: the peer's time over ours. floor: the same matrix products over the same row blocks, nothing else;
share of the floor: our time over it. extra memory: peak of a fresh process from just before forward to after
backward, minus operands and their gradients."""


@dataclass
class Row:
    """What was found out about one work."""

    work: Work
    timing: Timing
    repeats: int
    height: int
    products: float
    values: dict[str, float]
    skipped: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    sections: dict[str, float] = field(default_factory=dict)

    @property
    def peers(self) -> list[str]:
        return [side for side in self.timing.seconds if side not in ("floor", "ours")]

    @property
    def claims(self) -> bool:
        """Whether the timing may be quoted: enough alternations, and a steady floor."""
        return self.repeats >= LEAST_REPEATS and not self.timing.noisy

    def lines(self) -> list[tuple[str, ...]]:
        """One line per peer; a work without peers still has one."""
        found: list[tuple[str, ...]] = []
        for i, peer in enumerate(self.peers or [""]):
            ratio = seconds = ""
            if peer:
                seconds = _spread(self.timing.spread(peer))
                ratio = f"{self.timing.ratio(peer, 'ours').median:.2f}x" if self.claims else self._unfit
            own = (
                self.work.title,
                _spread(self.timing.spread("ours")),
                _spread(self.timing.spread("floor")),
                f"{self.timing.ratio('ours', 'floor').median:.2f}x" if self.claims else self._unfit,
                _bytes(self.memory.get("ours")),
            )
            title, ours, floor, share, memory = own if i == 0 else ("",) * 5
            found.append((title, ours, peer, seconds, ratio, floor, share, memory, _bytes(self.memory.get(peer))))
        return found

    def brief(self) -> str:
        """The row in a few words, for whoever watches."""
        share = f"{self.timing.ratio('ours', 'floor').median:.2f}x its floor" if self.claims else self._unfit
        ratios = [f"{p} {self.timing.ratio(p, 'ours').median:.2f}x slower" for p in self.peers if self.claims]
        return f"{self.work.title}: {_spread(self.timing.spread('ours'))}, {', '.join([share, *ratios])}"

    @property
    def _unfit(self) -> str:
        return "noisy" if self.timing.noisy else "too few"

    def missed(self) -> list[str]:
        """Goals that the measurements miss; a row that claims nothing misses only memory goals."""
        goal, found = self.work.goal, []
        if self.claims:
            share = self.timing.ratio("ours", "floor").median
            if share > goal.floor:
                found.append(f"{share:.2f}x the floor, goal {goal.floor}x")
            for peer in self.peers:
                ratio = self.timing.ratio(peer, "ours").median
                if ratio < goal.faster:
                    found.append(f"{ratio:.2f}x as fast as {peer}, goal {goal.faster}x")
        ours = self.memory.get("ours")
        if ours is not None and goal.memory is not None and ours > goal.memory:
            found.append(f"{_bytes(ours)} extra, goal {_bytes(goal.memory)}")
        dense = self.memory.get(self.work.peers[0].name) if self.work.peers else None
        if ours is not None and dense and goal.dense_share is not None and ours > goal.dense_share * dense:
            found.append(f"{ours / dense:.2f} of dense memory, goal {goal.dense_share}")
        return found

    def notes(self) -> list[str]:
        """Lines below the table: what was skipped or missed and what bounds it, values that differ."""
        name = self.work.name
        found = [f"{name}: {peer} skipped, it does not import ({why})" for peer, why in self.skipped.items()]
        ours = self.values["ours"]
        alike = {peer.name for peer in self.work.peers if peer.same}
        for peer in self.peers:
            if peer in alike and abs(self.values[peer] - ours) > 1e-3 * abs(ours):
                found.append(f"{name}: values differ, ours {ours:.6g}, {peer} {self.values[peer]:.6g}")
        if self.timing.noisy:
            spread = self.timing.spread("floor").relative
            found.append(f"{name}: noisy, the floor's quartiles differ by {spread:.0%} in the second measurement too")
        missed = self.missed()
        if missed:
            where = ", ".join(f"{kind} {share:.0%}" for kind, share in self.sections.items() if share > 0.005)
            blocks = f"{self.products:.2f} products in blocks of {self.height} rows"
            found.append(f"{name}: missed {'; '.join(missed)}. Ours makes {blocks}; time: {where}")
        return found

    def record(self) -> dict[str, Any]:
        """Everything, for --json."""
        return {
            "work": self.work.name,
            "shape": [self.work.rows, self.work.columns, self.work.features],
            "repeats": self.repeats,
            "noisy": self.timing.noisy,
            "claims": self.claims,
            "seconds": self.timing.seconds,
            "extra_bytes": self.memory,
            "values": self.values,
            "skipped": self.skipped,
            "block_rows": self.height,
            "products": self.products,
            "sections": self.sections,
            "missed": self.missed(),
        }


def text(rows: list[Row], repeats: int) -> str:
    """The table, its legend and the notes."""
    lines = [HEADER, *(line for row in rows for line in row.lines())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    drawn = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    drawn.insert(1, "-" * max(map(len, drawn)))
    return "\n".join([*drawn, "", LEGEND.format(repeats=repeats), "", *(note for r in rows for note in r.notes())]).rstrip()


def _spread(spread: Spread) -> str:
    scale, unit = (1, "s") if spread.median >= 1 else (1000, "ms")
    median, low, high = (f"{x * scale:.3g}" for x in (spread.median, spread.low, spread.high))
    return f"{median} [{low}, {high}] {unit}"


def _bytes(size: int | None) -> str:
    return "" if size is None else f"{size / MIB:.0f} MiB"
