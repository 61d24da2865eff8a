"""Several processes under DistributedDataParallel, each with its own rows."""

from __future__ import annotations

import socket

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import torchlosses as tl

ROWS, CLASSES = 12, 300


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 6, generator=generator), torch.randint(0, CLASSES, (ROWS,), generator=generator)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encoder, self.weight = nn.Linear(6, 4), nn.Parameter(torch.randn(CLASSES, 4))
        self.loss = tl.ArcFace(scale=8.0)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with tl.memory_budget(dense=0, block=512):
            return self.loss(tl.cosine(self.encoder(x), self.weight), tl.classes(y))


def work(rank: int, world: int, port: int, path: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    model = DistributedDataParallel(Head())
    x, y = data()
    share = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    model(x[share], y[share]).backward()
    if rank == 0:
        torch.save([p.grad for p in model.parameters()], path)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = str(tmp_path / "gradients.pt")
    torch.multiprocessing.spawn(work, args=(2, port, path), nprocs=2)
    model = Head()
    model(*data()).backward()
    for found, parameter in zip(torch.load(path), model.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)
