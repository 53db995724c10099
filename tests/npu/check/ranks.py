"""The processes of a group of NPUs, one rank each."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from glm4v.device import Device, DeviceOptions, open_device
from glm4v.device.collectives import ProcessGroup
from tests.npu.check.report import Failed

_TIMEOUT_S = 300.0


def run_ranks(module: str, ranks: int, folder: Path, extent: int) -> None:
    """Run `python -m module RANK SIZE FOLDER EXTENT` for every rank.

    `extent` is how much the module does. Raises Failed unless all end well.
    """
    command = [sys.executable, "-m", module]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(ranks), str(folder), str(extent)], stdin=subprocess.DEVNULL
        )
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


def rank_main(work: Callable[[Device, ProcessGroup, Path, int], None], dtype: str) -> None:
    """What such a module runs: its NPU and its group are opened for `work`."""
    rank, size, folder, extent = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    device = open_device(
        DeviceOptions("npu", dtype, local_rank=rank, local_size=size, group_size=size)
    )
    group = device.init_group(
        (folder / f"group of {size}").as_uri(),
        rank=rank,
        size=size,
        timeout_s=120.0,
        join_timeout_s=120.0,
    )
    work(device, group, folder, int(extent))
    group.close()
    sys.stdout.flush()
    os._exit(0)  # a device that hangs when it is closed, say
