"""The ranks of a group of pretend NPUs, in processes of their own."""

import multiprocessing
import os
import time
from pathlib import Path

import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import DeviceOptions, open_device
from lm_worker.model.layers import Shard
from tests.npu.required import LANGUAGE
from tests.parity.golden_plans import cases, load_model, open_golden, play, read_case

CASES = 4  # of the golden ones, the first with an image
_TIMEOUT_S = 300.0


def run_npu_ranks(size: int, model: Path, folder: Path) -> list[torch.Tensor]:
    """The logits [cases, 21, vocabulary] of each rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch_npu", "lm_worker.model.runner"])  # once for all
    processes = [
        context.Process(target=_rank, args=(rank, size, model, folder), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + _TIMEOUT_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * size, "a rank failed; its output is above"
    return [torch.load(folder / f"result{rank}", weights_only=True) for rank in range(size)]


def _rank(rank: int, size: int, model: Path, folder: Path) -> None:
    os.environ["PRETEND_NPU_DEVICES"] = str(size)
    torch.set_num_threads(1)
    device = open_device(
        DeviceOptions("npu", "float16", local_rank=rank, local_size=size, group_size=size)
    )
    assert device.name == f"npu:{rank}"
    from tests.npu.pretend.emulation import Emulation

    group = device.init_group(
        (folder / "group").as_uri(), rank=rank, size=size, timeout_s=120.0, join_timeout_s=120.0
    )
    checkpoint, golden, shard = Checkpoint.open(model), open_golden("bundled"), Shard(rank, size)
    every = [read_case(golden, case, checkpoint.spec) for case in cases(golden)][:CASES]
    with Emulation() as emulation:
        with torch.inference_mode():
            network = load_model(checkpoint, device, shard, group)
        played = play(network, device, checkpoint.spec, every, chunk=7, block_size=128, shard=shard)
        logits = torch.stack([case.logits for case in played]).float().cpu()
    assert set(emulation.calls) >= {"c10d::allreduce_"} | LANGUAGE[os.environ["PRETEND_NPU"]]
    torch.save(logits, folder / f"result{rank}")
    group.close()
    os._exit(0)  # torch_npu's threads have nothing to tidy up on a pretend device
