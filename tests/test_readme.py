"""What the README shows runs as shown, and every name it mentions exists."""

from __future__ import annotations

import re
from pathlib import Path

import torchlosses as tl

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_code_blocks_run() -> None:
    space: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), space)


def test_named_losses_exist() -> None:
    table = README.split("## The names you know, and ours")[1].split("## Four words")[0]
    ours = re.findall(
        r"\b([A-Z][A-Za-z]+)\b", " ".join(row.split("|")[2] for row in table.splitlines() if row.count("|") == 3)
    )
    missing = {name for name in ours if not hasattr(tl, name)} - {"W"}
    assert not missing
