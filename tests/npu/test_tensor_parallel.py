"""Ranks in processes of their own, one pretend NPU each; HCCL's operations go over gloo.

Proven: the group is formed by the backend "hccl", each rank takes its own device, all ranks make
the same collective calls, and their parts add up. HCCL itself does not run.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import DeviceOptions, open_device
from glm4v.device.collectives import SingleRank
from lm_worker.model.layers import Shard
from tests.npu.ranks import CASES, run_npu_ranks
from tests.parity.golden_plans import cases, load_model, open_golden, play, read_case


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "size",
    [2, 4, pytest.param(8, marks=pytest.mark.chip("Ascend910B"))],  # no 300I Duo group has 8
)
def test_ranks_give_the_tokens_of_one(
    size: int, checkpoint_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = checkpoint_dir("micro-glm4v")
    results = run_npu_ranks(size, folder, tmp_path)
    checkpoint = Checkpoint.open(folder)
    device = open_device(DeviceOptions("cpu", "float32"))
    golden = open_golden("bundled")
    every = [read_case(golden, case, checkpoint.spec) for case in cases(golden)][:CASES]
    model = load_model(checkpoint, device, Shard(0, 1), SingleRank())
    alone = play(model, device, checkpoint.spec, every, chunk=7, block_size=128)
    logits = torch.stack([case.logits for case in alone])
    for result in results:
        assert (result - logits).abs().max() < 0.04  # as in test_language
        assert torch.equal(result, results[0])  # all ranks choose the same tokens
