"""Versions and machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import torchlosses

PACKAGES = ("torch", "numpy", "scipy", "optuna", "scikit-learn", "lightgbm", "sentence-transformers", "lightning-fabric")


def environment() -> dict[str, str]:
    """What the numbers were made with."""
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
        "torchlosses": torchlosses.__version__,
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
