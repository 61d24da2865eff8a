"""The network that every objective trains: one tower for each kind of input, and a head where a task has one."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from torchlosses.compare.refusal import Refusal
from torchlosses.compare.table import needs

Maker = Callable[[tuple[int, ...]], nn.Module]  # from the shape of one example
WIDTH = 64
EXPECTED = "mlp, conv, linear, text:PATH or module:function"


def mlp(shape: tuple[int, ...], hidden: int = 128, width: int = WIDTH) -> nn.Sequential:
    """Two hidden layers and an embedding."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, width),
    )


def linear(shape: tuple[int, ...], width: int = WIDTH) -> nn.Sequential:
    """One matrix."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), width))


def conv(shape: tuple[int, ...], width: int = WIDTH) -> nn.Sequential:
    """Two convolutions with pooling, for images (H, W) or (C, H, W) or, with at most 4 channels, (H, W, C)."""
    if len(shape) not in (2, 3) or min(shape[-2:] if len(shape) == 2 else sorted(shape)[1:]) < 4:
        raise Refusal(f"--encoder conv: expected images of at least 4 x 4, got examples of shape {shape}")
    last = len(shape) == 3 and shape[-1] <= 4 < shape[0]
    channels = 1 if len(shape) == 2 else shape[-1] if last else shape[0]
    sides = shape[:2] if last else shape[-2:]
    return nn.Sequential(
        _Images(last),
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (sides[0] // 4) * (sides[1] // 4), width),
    )


class _Images(nn.Module):
    """(B, C, H, W) from what the data has."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1) if self.last else x if x.dim() == 4 else x.unsqueeze(1)


class Adapter(nn.Module):
    """What a frozen sentence encoder says, plus a learned change that begins as none."""

    def __init__(self, shape: tuple[int, ...], hidden: int = 128) -> None:
        super().__init__()
        width = math.prod(shape)
        self.change = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        last = cast(nn.Linear, self.change[2])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.change(x))


MAKERS: dict[str, Maker] = {"mlp": mlp, "linear": linear, "conv": conv}


def maker(text: str) -> Maker:
    """The function that makes a tower, from what ``--encoder`` says."""
    if text in MAKERS:
        return MAKERS[text]
    place, colon, name = text.partition(":")
    if place == "text" and name:
        return Adapter
    if not colon or not place or not name:
        raise Refusal(f"--encoder: expected {EXPECTED}; got {text!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError, SyntaxError) as problem:
        raise Refusal(f"--encoder: cannot import {text!r}: {problem}") from None
    if not callable(found):
        raise Refusal(f"--encoder: expected a function that takes the shape of an example, got {found!r}")
    return cast(Maker, found)


def sentences(text: str) -> Callable[[list[str]], Any] | None:
    """What turns texts into numbers, for ``--encoder text:PATH``; loads the model only when called."""
    place, _, path = text.partition(":")
    if place != "text" or not path:
        return None
    if not Path(path).exists():
        raise Refusal(f"--encoder: no sentence encoder at {path}")

    loaded: list[Any] = []

    def embed(texts: list[str]) -> Any:
        if not loaded:
            loaded.append(_sentence_model(path))
        return loaded[0].encode(texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)

    return embed


def _sentence_model(path: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        raise needs("text", "text columns", "sentence-transformers") from None
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            return SentenceTransformer(path, device="cpu", local_files_only=True)
    except Exception as problem:  # it raises many kinds
        raise Refusal(f"--encoder: cannot load a sentence encoder from {path}: {problem}") from None


class Model(nn.Module):
    """Towers (one for each kind of input) and, with ``classes``, a weight and bias for each class.

    Made in this order from torch's generator: models of one seed have the same towers whatever their heads.
    """

    def __init__(self, make: Maker, shapes: tuple[tuple[int, ...], ...], width: int, classes: int = 0) -> None:
        super().__init__()
        self.towers = nn.ModuleList(make(shape) for shape in shapes)
        self.weight = nn.Parameter(torch.randn(classes, width) / width**0.5) if classes else None
        self.bias = nn.Parameter(torch.zeros(classes)) if classes else None

    def forward(self, x: Tensor, tower: int = 0) -> Tensor:
        return cast(Tensor, self.towers[tower](x))


def width_of(make: Maker, example: Tensor) -> int:
    """How many numbers the tower gives for one example; refuses a tower that does not fit the data."""
    shape = tuple(example.shape)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            tower = make(shape)
            if not isinstance(tower, nn.Module):
                raise TypeError(f"it returned {type(tower).__name__}, expected a torch.nn.Module")
            found = tower.eval()(torch.stack([example, example]))
            if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != 2:
                got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise TypeError(f"it gave {got} for a batch of 2, expected a tensor (2, width)")
    except Refusal:
        raise
    except Exception as problem:
        raise Refusal(f"--encoder: it does not work on examples of shape {shape}: {problem}") from None
    return found.shape[1]
