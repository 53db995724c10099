"""One rank of a group of pretend NPUs: `python -m tests.npu.ranks RANK SIZE MODEL OUT`."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import DeviceOptions, open_device
from lm_worker.model.layers import Shard
from tests.parity.golden_plans import cases, load_model, open_golden, play, read_case

_TIMEOUT_S = 300.0


def run_npu_ranks(size: int, model: Path, folder: Path) -> list[torch.Tensor]:
    """The logits [cases, 21, vocabulary] of each rank."""
    environment = os.environ | {"PRETEND_NPU_DEVICES": str(size), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(rank), str(size), str(model), str(folder)],
            env=environment,
        )
        for rank in range(size)
    ]
    try:
        codes = [process.wait(_TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * size, "a rank failed; its output is above"
    return [torch.load(folder / f"result{rank}", weights_only=True) for rank in range(size)]


def _rank(rank: int, size: int, model: Path, folder: Path) -> None:
    device = open_device(
        DeviceOptions("npu", "float16", local_rank=rank, local_size=size, group_size=size)
    )
    assert device.name == f"npu:{rank}"
    from tests.npu.pretend.emulation import Emulation

    group = device.init_group(
        (folder / "group").as_uri(), rank=rank, size=size, timeout_s=120.0, join_timeout_s=120.0
    )
    checkpoint, golden, shard = Checkpoint.open(model), open_golden("bundled"), Shard(rank, size)
    every = [read_case(golden, case, checkpoint.spec) for case in cases(golden)][:4]
    with Emulation() as emulation:
        with torch.inference_mode():
            network = load_model(checkpoint, device, shard, group)
        played = play(network, device, checkpoint.spec, every, chunk=7, block_size=128, shard=shard)
        logits = torch.stack([case.logits for case in played]).float().cpu()
    assert emulation.calls["c10d::allreduce_"] > 0
    torch.save(logits, folder / f"result{rank}")
    group.close()


if __name__ == "__main__":
    _rank(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
    sys.stdout.flush()
    os._exit(0)  # torch_npu's threads have nothing to tidy up on a pretend device
