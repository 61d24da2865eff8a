"""Options and summaries of the test run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--oracles",
        default=str(HERE / "oracles"),
        help="directory of golden numbers (<family>.npz and .json)",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for group in terminalreporter.stats.values() for r in group if hasattr(r, "user_properties")]
    last = [dict(r.user_properties).get("oracle") for r in reports if getattr(r, "when", "") == "call"]
    tally = Counter(outcome for outcome in last if outcome)
    if tally:
        shown = ", ".join(f"{tally[name]} {name}" for name in ("passed", "failed", "slip"))
        terminalreporter.write_line(f"golden cases: {shown}")
