"""Training steps of the spherical Z-loss beside fused cross-entropy: ``python -m benchmarks.spherical [--repeats N]``.

A step is value, gradients, and the update of the class matrix W (L, D). Three ways of the Z-loss are timed apart, since
they cost very different things:

    dense     W gets its whole (L, D) gradient and is updated as any parameter: L D^2 for the Gram matrix, as much again
              for the gradient, and a pass over W for the update
    frozen    W stays as it is (its Gram matrix is made in every step); cross-entropy beside it with W frozen, too
    factored  W = V U + 1 c' is never touched as a whole: the Gram matrix is kept up to date, a step moves U, c and B rows
              of V, and costs B D^2 + D^3 whatever L is (Vincent, de Brebisson, Bouthillier, 2015, arXiv:1412.7091)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import torchlosses as tl
from benchmarks.measure import Spread, alternate
from torchlosses.engine.block import Block
from torchlosses.engine.outcome import GivenSummary
from torchlosses.engine.spherical import Moments

RATE = 0.01
WORKS = ((100_000, 128, 512), (1_000_000, 64, 512))  # classes, features, batch


class Factored:
    """A linear head under plain gradient descent on a spherical loss, W = V U + 1 c' and its moments."""

    def __init__(self, weight: Tensor, loss: tl.RowLoss) -> None:
        self.v, self.loss = weight.clone(), loss
        self.u = torch.eye(weight.shape[1], dtype=weight.dtype)
        self.c = torch.zeros_like(weight[0])
        self.mean, self.gram, _ = Moments.apply(weight, torch.zeros(1, dtype=torch.long), weight.dtype)

    @property
    def weight(self) -> Tensor:
        """W as a whole."""
        return self.v @ self.u + self.c

    def step(self, h: Tensor, y: Tensor, rate: float = RATE) -> tuple[Tensor, Tensor]:
        """Value and gradient of the features (B, D); W moves by -rate times its gradient."""
        columns = len(self.v)
        right = (self.v[y] @ self.u + self.c).requires_grad_()
        mean, gram, x = self.mean.requires_grad_(), self.gram.requires_grad_(), h.detach().requires_grad_()
        total, spread = columns * (x @ mean), ((x @ gram) * x).sum(1)
        size, options = (len(h), columns), {"ignore_index": -100}
        block = Block("classes", {"index": y}, {}, options, size, 0, h.dtype, h.device, None)
        given = {"target": (right * x).sum(1), "total": total, "spread": spread, "squares": spread + total**2 / columns}
        rows = self.loss.from_summary(GivenSummary(given, torch.ones_like(total), block), block)
        assert isinstance(rows, Tensor)
        value = rows.mean()
        by_right, by_mean, by_gram, by_x = torch.autograd.grad(value, (right, mean, gram, x))
        with torch.no_grad():
            self._move(y, right - mean, rate * by_right, rate * by_mean / columns, rate * (by_gram + by_gram.T))
        return value.detach(), by_x

    def _move(self, y: Tensor, centred: Tensor, by_right: Tensor, by_mean: Tensor, by_gram: Tensor) -> None:
        """W - 1 mean' goes to (W - 1 mean') A minus a few rows, A = 1 - by_gram."""
        kept = torch.eye(len(by_gram), dtype=by_gram.dtype) - by_gram
        own, place = y.unique(return_inverse=True)
        lower = torch.zeros(len(own), len(kept), dtype=kept.dtype).index_add_(0, place, by_right)
        moved = torch.empty_like(lower).index_copy_(0, place, centred @ kept)
        shift = lower.sum(0) / len(self.v)
        cross = moved.T @ lower
        self.u = self.u @ kept
        self.c = self.c @ kept + self.mean @ by_gram - by_mean
        self.v[own] -= torch.linalg.solve(self.u, lower, left=False)
        self.gram = kept.T @ self.gram @ kept - cross - cross.T + lower.T @ lower - len(self.v) * shift[:, None] * shift
        self.mean = (self.mean - by_mean - shift).detach()
        self.gram = self.gram.detach()


def steps(columns: int, features: int, rows: int) -> dict[str, Callable[[], object]]:
    """The sides, each a training step on operands of its own kind."""
    torch.manual_seed(0)
    weight = torch.randn(columns, features).div_(features**0.5).requires_grad_()
    h = torch.randn(rows, features, requires_grad=True)
    y = torch.randint(columns, (rows,))

    def step(loss: tl.RowLoss, train: bool) -> Callable[[], None]:
        def run() -> None:
            value = loss(tl.linear(h, weight if train else weight.detach()), y)
            found = torch.autograd.grad(value, (h, weight) if train else (h,))
            if train:
                with torch.no_grad():
                    weight.sub_(found[1], alpha=RATE)

        return run

    head = Factored(weight.detach(), tl.ZLoss())
    return {
        "cross-entropy": step(tl.CrossEntropy(), True),
        "Z-loss, dense": step(tl.ZLoss(), True),
        "cross-entropy, frozen": step(tl.CrossEntropy(), False),
        "Z-loss, frozen": step(tl.ZLoss(), False),
        "Z-loss, factored": lambda: head.step(h, y),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spherical", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="alternations, at least 1")
    parser.add_argument("--classes", type=int, action="append", help="only these numbers of classes")
    options = parser.parse_args(arguments)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; median [quartiles] of {options.repeats}")
    for columns, features, rows in WORKS:
        if options.classes and columns not in options.classes:
            continue
        print(f"\n{columns:,} classes, {features} features, batch {rows}, float32")
        sides = steps(columns, features, rows)
        timing = alternate(sides, options.repeats)
        for name in sides:
            beside = "cross-entropy, frozen" if "frozen" in name else "cross-entropy"
            print(f"  {name:22} {_text(timing.spread(name), 1e3)} ms   {_text(timing.ratio(beside, name))} times as fast")
    return 0


def _text(spread: Spread, scale: float = 1.0) -> str:
    return f"{spread.median * scale:9.2f} [{spread.low * scale:.2f}, {spread.high * scale:.2f}]"


if __name__ == "__main__":
    raise SystemExit(main())
