"""Where a training runs: plainly on the CPU, or as Lightning Fabric places it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One CPU process in float32."""
