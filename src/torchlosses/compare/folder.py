"""The directory of a study: study.json (whose it is), study.db (what is finished), results.json, report.html."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchlosses.compare.options import Options
from torchlosses.compare.refusal import Refusal
from torchlosses.compare.report import page
from torchlosses.compare.results import Result
from torchlosses.compare.tasks.base import Task


@dataclass(frozen=True)
class Folder:
    """A directory that belongs to one study."""

    path: Path
    study: dict[str, Any]

    @classmethod
    def find(cls, options: Options, task: Task) -> Folder:
        """The directory asked for, or the first free default one. Refuses what belongs to another study."""
        study = options.identity(task.data.fingerprint)
        if options.out is not None:
            folder = cls(Path(options.out), study)
            if not folder.free:
                raise Refusal(
                    f"--out: {options.out} is not empty and does not belong to this study; choose another directory"
                )
            return folder
        base = f"compare-{task.data.name}-{options.task}"
        names = itertools.chain([base], (f"{base}-{k}" for k in itertools.count(2)))
        return next(folder for name in names if (folder := cls(Path(name), study)).free)

    @property
    def free(self) -> bool:
        """Whether this study may write here: nothing is there, or this same study wrote it."""
        try:
            if not self.path.exists():
                return True
            if not self.path.is_dir():
                return False
            left = [path.name for path in self.path.iterdir()]
            if not left or left == ["study.json.part"]:  # killed while it claimed the directory
                return True
            return bool(json.loads((self.path / "study.json").read_text("utf-8")) == self.study)
        except (OSError, ValueError):
            return False

    def claim(self) -> None:
        """Makes the directory and says in it whose it is."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise Refusal(f"--out: cannot write to {self.path}: {problem.strerror}") from None
        self._put("study.json", json.dumps(self.study, indent=1))

    def write(self, result: Result) -> None:
        self._put("results.json", json.dumps(_plain(result.as_json()), indent=1, allow_nan=False))
        self._put("report.html", page(result))

    def _put(self, name: str, text: str) -> None:
        """Whole or not at all: a file is never half written."""
        part = self.path / (name + ".part")
        try:
            part.write_text(text + "\n", "utf-8")
            part.replace(self.path / name)
        except OSError as problem:
            part.unlink(missing_ok=True)
            raise Refusal(f"--out: cannot write {self.path / name}: {problem.strerror}") from None


def _plain(value: Any) -> Any:
    """The value for JSON: no infinities (an optional bound may be one), tuples as lists."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
