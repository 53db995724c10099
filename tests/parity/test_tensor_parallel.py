"""Several ranks give the logits of one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import DeviceOptions, open_device
from glm4v.device.collectives import Collective, SingleRank
from lm_worker.model.layers import Shard
from tests.parity.golden_plans import cases, load_model, open_golden, play, read_case
from tests.rank_processes import run_ranks


def play_all(group: Collective, rank: int, size: int, folder: Path) -> torch.Tensor:
    """Logits [cases, 21, vocabulary] of all cases, played side by side."""
    checkpoint = Checkpoint.open(folder)
    golden = open_golden("bundled")
    shard = Shard(rank, size)
    device = open_device(DeviceOptions("cpu", "float32"))
    model = load_model(checkpoint, device, shard, group)
    every = [read_case(golden, case, checkpoint.spec) for case in cases(golden)]
    played = play(model, device, checkpoint.spec, every, chunk=7, block_size=4, shard=shard)
    return torch.stack([case.logits for case in played])


# 2 kv heads: one each, and each in two copies.
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_give_the_logits_of_one(
    size: int, checkpoint_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = checkpoint_dir("micro-glm4v")
    alone = play_all(SingleRank(), 0, 1, folder)
    together = run_ranks(play_all, size, tmp_path, folder)
    for logits in together:
        torch.testing.assert_close(logits, alone, atol=1e-5, rtol=0)
        assert torch.equal(logits, together[0])  # all ranks choose the same tokens
