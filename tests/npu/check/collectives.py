"""Bandwidth and memory of HCCL, over a group of NPUs; a process of this module is one rank."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from glm4v.device import Device
from glm4v.device.collectives import ProcessGroup
from tests.npu.check.memory import memory
from tests.npu.check.ranks import rank_main, run_ranks
from tests.npu.check.report import table

SIZES = {  # elements in the dtype of the device
    "a decode step of 1 (4096 values)": 4096,
    "a decode step of 32": 32 * 4096,
    "a prefill of 512": 512 * 4096,
    "64 Mi values": 64 * 2**20,
}
_WARM_UP = 5


def bandwidth(ranks: int, folder: Path, repeats: int = 50) -> Iterator[str]:
    """All-reduce over `ranks` NPUs; the figures are rank 0's."""
    run_ranks(__name__, ranks, folder, repeats)
    found = json.loads((folder / "figures.json").read_text())
    rows = [
        (name, f"{seconds * 1e6:.0f} µs", f"{rate / 1e9:.2f} GB/s")
        for name, (seconds, rate) in found["figures"].items()
    ]
    yield f"{ranks} ranks; the rate is 2 (n - 1) / n of the bytes over the time."
    yield ""
    yield from table(("all-reduce", "duration", "rate"), rows)
    yield ""
    yield (
        f"HCCL took {found['taken'] / 1e9:.2f} GB of rank 0's memory; "
        f"{found['reserved'] / 1e9:.2f} GB are left for it where the cache's size is chosen."
    )


def _rank(device: Device, group: ProcessGroup, folder: Path, repeats: int) -> None:
    before = memory(device).others
    figures = {}
    for name, count in SIZES.items():
        tensor = torch.ones(count, dtype=device.dtype, device=device.torch_device)
        if float(group.all_reduce(tensor)[-1]) != group.size:
            raise RuntimeError(f"the sum of {group.size} ones over the ranks is {tensor[-1]}")
        for _ in range(min(_WARM_UP, repeats)):
            group.all_reduce(tensor.zero_())
        tensor[-1].item()  # waits for the device
        began = time.perf_counter()
        for _ in range(repeats):
            group.all_reduce(tensor)
        tensor[-1].item()
        seconds = (time.perf_counter() - began) / repeats
        moved = 2 * (group.size - 1) / group.size * count * device.dtype.itemsize
        figures[name] = (seconds, moved / seconds)
    if group.rank == 0:
        after = memory(device)
        found = {
            "figures": figures,
            "taken": after.others - before,
            "reserved": after.free - device.free_memory_bytes(),
        }
        (folder / "figures.json").write_text(json.dumps(found))


if __name__ == "__main__":
    rank_main(_rank, "auto")
