"""Muon: what an update is, and that processes which share the work make the same ones."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.multiprocessing import spawn  # type: ignore[attr-defined]

from recipes.demo_model.muon import Muon, orthogonal

SHAPES = ((8, 20), (20, 8), (6, 6))
PROCESSES = 2
STEPS = 3


def trained() -> Mapping[str, torch.Tensor]:
    """Matrices after a few steps; one never has a gradient."""
    generator = torch.Generator().manual_seed(3)
    matrices = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    left = torch.nn.Parameter(torch.ones(3, 3))
    muon = Muon([{"params": [matrices[0], left]}, {"params": matrices[1:]}], 0.01)
    for _ in range(STEPS):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        muon.step()
    return {str(number): matrix.detach() for number, matrix in enumerate([*matrices, left])}


def train_together(rank: int, folder: Path) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    store = (folder / "store").as_uri()
    distributed.init_process_group("gloo", store, rank=rank, world_size=PROCESSES)
    save_file(dict(trained()), folder / str(rank))
    distributed.destroy_process_group()
    os._exit(0)  # at a usual exit torch 2.10 aborts now and then once gloo was used


@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_orthogonal_keeps_directions_alone(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    stretched = u * torch.linspace(0.2, 3, 8) @ v
    values = torch.linalg.svdvals(orthogonal(stretched))
    assert 0.6 < values.min() < values.max() < 1.3
    assert (u.T @ orthogonal(stretched) @ v.T).diag().min() > 0.6


def test_processes_share_the_work(tmp_path: Path) -> None:
    spawn(train_together, (tmp_path,), nprocs=PROCESSES)  # type: ignore[no-untyped-call]
    alone = trained()
    assert torch.equal(alone[str(len(SHAPES))], torch.ones(3, 3))
    for rank in range(PROCESSES):
        together = load_file(tmp_path / str(rank))
        assert all(torch.equal(alone[name], together[name]) for name in alone)
