"""Runs a function in several processes that form a group, bounded in time."""

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from glm4v.device.collectives import ProcessGroup

TIMEOUT_S = 60.0


def run_ranks(
    work: Callable[..., torch.Tensor],
    size: int,
    folder: Path,
    *args: Any,
    timeout_s: float = TIMEOUT_S,
    delays_s: Sequence[float] = (),
) -> list[torch.Tensor]:
    """What `work(group, rank, size, *args)` gives in each of `size` processes.

    `work` has to be a function of a module; `folder` takes the group's file and the results.
    `timeout_s` bounds every call of the group; ranks come `delays_s` after they could.
    """
    # Forked from a process that has imported torch, which takes longer than most of their work.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    environment = dict(os.environ)  # the server has that of its start
    processes = [
        context.Process(
            target=_rank,
            args=(work, rank, size, folder, environment, timeout_s, delay_s, args),
            daemon=True,
        )
        for rank, delay_s in enumerate(delays_s or [0.0] * size)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + TIMEOUT_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * size, "a rank failed or hung; its output is above"
    return [torch.load(folder / f"result{rank}", weights_only=True) for rank in range(size)]


def _rank(
    work: Callable[..., torch.Tensor],
    rank: int,
    size: int,
    folder: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    delay_s: float,
    args: tuple[Any, ...],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    time.sleep(delay_s)
    address = (folder / "group").as_uri()
    group = ProcessGroup("gloo", address, rank=rank, size=size, timeout_s=timeout_s)
    torch.save(work(group, rank, size, *args), folder / f"result{rank}")
    group.close()
