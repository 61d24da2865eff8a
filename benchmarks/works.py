"""What is measured: each work's operands, our call, the peers' calls, and what we mean to reach."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

import torchlosses as tl

Call = Callable[..., Tensor]
"""(left, right or None, labels) -> value; the gradients of left and right are then asked for."""

PAIRED, CLASSES, GROUPS = "paired", "classes", "groups"
GROUP = 8  # examples that share a label


@dataclass(frozen=True)
class Peer:
    """Other code beside ours. ``load`` imports it; any failure there means: named and skipped.

    ``same`` says that it computes the same value, which the table then checks.
    """

    name: str
    load: Callable[[], Call]
    same: bool = True


@dataclass(frozen=True)
class Goal:
    """What a work is meant to reach.

    Arguments:
        floor: our time over the floor's, at most.
        faster: every peer's time over ours, at least.
        memory: extra bytes, at most, or None.
        dense_share: our extra bytes over those of the first peer, at most, or None.
    """

    floor: float
    faster: float
    memory: int | None = None
    dense_share: float | None = None


@dataclass(frozen=True)
class Work:
    """One row of the table. ``products``: how many of rows x columns x features value and gradients cost."""

    name: str
    rows: int
    columns: int
    features: int
    products: int
    targets: str
    load: Callable[[], Call]
    goal: Goal
    peers: tuple[Peer, ...] = field(default=())

    @property
    def title(self) -> str:
        return f"{self.name} {self.rows} x {self.columns} x {self.features}"

    def operands(self, rows: int | None = None, columns: int | None = None) -> tuple[Tensor | None, ...]:
        """Left, right (None: a self-comparison) and labels, float32; fewer rows and columns for a warm-up."""
        rows, columns = rows or self.rows, columns or self.columns
        draw = torch.Generator().manual_seed(0)
        left = torch.randn(rows, self.features, generator=draw)
        right = torch.randn(columns, self.features, generator=draw) if self.targets != GROUPS else None
        if self.targets == CLASSES:  # as a language model's last layer starts
            assert right is not None
            right *= 0.02
            labels = torch.randint(columns, (rows,), generator=draw)
        else:  # unit length, as open_clip takes them; the metric losses normalize once more, ours and theirs
            left = F.normalize(left)
            right = None if right is None else F.normalize(right)
            labels = torch.arange(rows) if self.targets == PAIRED else torch.arange(rows) // GROUP
        left.requires_grad_()
        return left, None if right is None else right.requires_grad_(), labels


# --- ours -------------------------------------------------------------------------------------------------------

TEMPERATURE = 0.05


def _info_nce() -> Call:
    loss = tl.InfoNCE(temperature=TEMPERATURE)
    return lambda q, k, y: loss(tl.dot(q, k), tl.paired())


def _symmetric() -> Call:
    loss = tl.SymmetricInfoNCE(temperature=TEMPERATURE)
    return lambda q, k, y: loss(tl.dot(q, k), tl.paired())


def _head() -> Call:
    loss = tl.CrossEntropy()
    return lambda h, w, y: loss(tl.linear(h, w), y)


def _multi_similarity() -> Call:
    loss = tl.MultiSimilarity(alpha=2.0, beta=50.0, base=0.5)
    return lambda x, _, y: loss(tl.cosine(x), tl.same_label(y))


def _sup_con() -> Call:
    loss = tl.SupCon(temperature=0.1)
    return lambda x, _, y: loss(tl.cosine(x), tl.same_label(y))


# --- theirs -----------------------------------------------------------------------------------------------------


def _dense_info_nce() -> Call:
    return lambda q, k, y: F.cross_entropy(q @ k.T / TEMPERATURE, y)


def _dense_symmetric() -> Call:
    def call(q: Tensor, k: Tensor, y: Tensor) -> Tensor:
        scores = q @ k.T / TEMPERATURE
        return (F.cross_entropy(scores, y) + F.cross_entropy(scores.T, y)) / 2

    return call


def _dense_head() -> Call:
    return lambda h, w, y: F.cross_entropy(F.linear(h, w), y)


def _torch_linear_cross_entropy() -> Call:
    function = F.linear_cross_entropy
    options = torch.nn.LinearCrossEntropyOptions()  # in chunks; without options it is the dense code
    return lambda h, w, y: function(h, w, y, options=options)


def _compiled_cut_cross_entropy() -> Call:
    function = importlib.import_module("cut_cross_entropy").linear_cross_entropy
    return lambda h, w, y: function(h, w, y, impl="torch_compile")


def _open_clip() -> Call:
    loss = _file_of("open_clip", "loss").ClipLoss()
    return lambda q, k, y: loss(q, k, 1 / TEMPERATURE)


def _metric_learning(name: str, **hyperparameters: float) -> Callable[[], Call]:
    def load() -> Call:
        losses = importlib.import_module("pytorch_metric_learning.losses")
        loss = getattr(losses, name)(**hyperparameters)
        return lambda x, _, y: loss(x, y)

    return load


def _file_of(package: str, module: str) -> ModuleType:
    """One module of an installed package, without the package's own imports (torchvision, which must match torch)."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}")
    place = f"{found.submodule_search_locations[0]}/{module}.py"
    spec = importlib.util.spec_from_file_location(f"{package}_{module}", place)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


# --- the list ---------------------------------------------------------------------------------------------------

_PAIRS = Goal(floor=1.15, faster=1.0, memory=64 << 20)
_HEAD = Goal(floor=1.15, faster=1.0, dense_share=0.2)
_METRIC = Goal(floor=1.4, faster=2.5)

WORKS: tuple[Work, ...] = (
    Work("InfoNCE", 8192, 8192, 512, 3, PAIRED, _info_nce, _PAIRS, (Peer("torch dense", _dense_info_nce),)),
    Work(
        "SymmetricInfoNCE",
        8192,
        8192,
        512,
        4,
        PAIRED,
        _symmetric,
        _PAIRS,
        (Peer("torch dense", _dense_symmetric), Peer("open_clip ClipLoss", _open_clip)),
    ),
    Work(
        "LM head",
        2048,
        50257,
        768,
        3,
        CLASSES,
        _head,
        _HEAD,
        (
            Peer("torch dense", _dense_head),
            Peer("torch linear_cross_entropy", _torch_linear_cross_entropy),
            Peer("cut-cross-entropy torch_compile", _compiled_cut_cross_entropy),
        ),
    ),
    Work(
        "MultiSimilarity",
        4096,
        4096,
        128,
        3,
        GROUPS,
        _multi_similarity,
        _METRIC,
        (
            Peer(
                "pytorch-metric-learning",
                _metric_learning("MultiSimilarityLoss", alpha=2.0, beta=50.0, base=0.5),
            ),
        ),
    ),
    Work(
        "SupCon",
        4096,
        4096,
        128,
        3,
        GROUPS,
        _sup_con,
        _METRIC,
        (Peer("pytorch-metric-learning", _metric_learning("SupConLoss", temperature=0.1)),),
    ),
)

# --- every target-probability loss on the same head -------------------------------------------------------------

_LIKE_CROSS_ENTROPY = Goal(floor=1.25, faster=1 / 1.1, dense_share=1.05)

FUSED_RULES: dict[str, dict[str, float]] = {
    "LogPartitionPenalty": {},
    "Focal": {"gamma": 2.0},
    "PolyLoss": {},
    "CompSum": {"tau": 0.5},
    "GeneralizedCrossEntropy": {},
    "MeanAbsoluteError": {},
    "SymmetricCrossEntropy": {},
    "AsymmetricGCE": {},
    "AsymmetricUnhinged": {},
    "AsymmetricExponential": {},
    "TruncatedGCE": {},
    "JensenShannon": {},
    "Encouraging": {},
    "DirectCoverage": {},
    "NormalizedCrossEntropy": {},
}


def _rule(name: str, hyperparameters: dict[str, float]) -> Callable[[], Call]:
    def load() -> Call:
        loss = getattr(tl, name)(**hyperparameters)
        return lambda h, w, y: loss(tl.linear(h, w), y)

    return load


FUSED: tuple[Work, ...] = tuple(
    Work(
        name,
        2048,
        50257,
        768,
        3,
        CLASSES,
        _rule(name, hyperparameters),
        _LIKE_CROSS_ENTROPY,
        (Peer("our CrossEntropy", _head, same=False),),
    )
    for name, hyperparameters in FUSED_RULES.items()
)
ALL = WORKS + FUSED
