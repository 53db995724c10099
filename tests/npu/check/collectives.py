"""Bandwidth of HCCL: `python -m tests.npu.check.collectives RANK SIZE FOLDER` is one rank."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from glm4v.device import DeviceOptions, open_device
from tests.npu.check.report import Failed, table

SIZES = {  # elements in the dtype of the device
    "a decode step of 1 (4096 values)": 4096,
    "a decode step of 32": 32 * 4096,
    "a prefill of 512": 512 * 4096,
    "64 Mi values": 64 * 2**20,
}
_REPEATS = 50
_WARM_UP = 5
_TIMEOUT_S = 300.0


def bandwidth(ranks: int, folder: Path) -> Iterator[str]:
    """All-reduce over `ranks` NPUs; the figures are rank 0's."""
    command = [sys.executable, "-m", __name__]
    processes = [
        subprocess.Popen([*command, str(rank), str(ranks), str(folder)], stdin=subprocess.DEVNULL)
        for rank in range(ranks)
    ]
    try:
        codes = [process.wait(_TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(codes):
        raise Failed([f"exit codes of the ranks: {codes}; their output is on the terminal"])
    figures = json.loads((folder / "figures.json").read_text())
    rows = [
        (name, f"{seconds * 1e6:.0f} µs", f"{rate / 1e9:.2f} GB/s")
        for name, (seconds, rate) in figures.items()
    ]
    yield f"{ranks} ranks; the rate is 2 (n - 1) / n of the bytes over the time."
    yield ""
    yield from table(("all-reduce", "duration", "rate"), rows)


def _rank(rank: int, size: int, folder: Path) -> None:
    device = open_device(DeviceOptions("npu", local_rank=rank, local_size=size, group_size=size))
    group = device.init_group(
        (folder / "group").as_uri(), rank=rank, size=size, timeout_s=120.0, join_timeout_s=120.0
    )
    figures = {}
    for name, count in SIZES.items():
        tensor = torch.ones(count, dtype=device.dtype, device=device.torch_device)
        if float(group.all_reduce(tensor)[-1]) != size:
            raise RuntimeError(f"the sum of {size} ones over {size} ranks is {tensor[-1]}")
        for _ in range(_WARM_UP):
            group.all_reduce(tensor.zero_())
        tensor[-1].item()  # waits for the device
        began = time.perf_counter()
        for _ in range(_REPEATS):
            group.all_reduce(tensor)
        tensor[-1].item()
        seconds = (time.perf_counter() - began) / _REPEATS
        moved = 2 * (size - 1) / size * count * device.dtype.itemsize
        figures[name] = (seconds, moved / seconds)
    if rank == 0:
        (folder / "figures.json").write_text(json.dumps(figures))
    group.close()


if __name__ == "__main__":
    _rank(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.flush()
    os._exit(0)
