"""The processes of a tensor-parallel group: how they find each other and exit together.

On one host rank 0 starts the others. On several hosts each rank is started from outside, with
torchrun's RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from glm4v.device import Device
from glm4v.device.collectives import ProcessGroup
from glm4v.errors import ConfigurationError, Unavailable
from glm4v.host.temporary_folder import TemporaryFolder

log = logging.getLogger(__name__)

MASTER_PORT = "20030"
JOIN_TIMEOUT_S = 120.0  # for all ranks to join
LOAD_TIMEOUT_S = 1800.0  # for all ranks to read their weights
# A silent rank is noticed when the call after the next heartbeat fails, so the shares sum to 1.
HEARTBEAT_SHARE = 1 / 3  # of rank_timeout_s: between two heartbeats
_CALL_SHARE = 2 / 3  # of rank_timeout_s: for one call
_WATCH_INTERVAL_S = 0.2
_STOP_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class RankConfig:
    """This process's rank in its group."""

    rank: int
    size: int
    address: str  # where the ranks meet: "tcp://host:port" or "file:///path"; empty for a lone rank
    local_rank: int = 0  # among the ranks on this host
    local_size: int = 1  # ranks on this host


def rank_from_env(environment: Mapping[str, str], tensor_parallel: int) -> RankConfig | None:
    """This process's rank if it was started from outside, else None.

    LOCAL_RANK and LOCAL_WORLD_SIZE say which of a host's devices is its own; without them it has
    the host for itself. Without MASTER_PORT the port is 20030: groups that share the host of their
    rank 0 need one each.
    Raises ConfigurationError if the variables contradict each other or `tensor_parallel`.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR")
    given = [name for name in names if environment.get(name)]
    if not given:
        return None
    if len(given) < len(names):
        missing = ", ".join(name for name in names if name not in given)
        raise ConfigurationError(f"{', '.join(given)} set, but not {missing}; set all or none")
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK") or 0)
        local_size = int(environment.get("LOCAL_WORLD_SIZE") or 1)
    except ValueError as error:
        raise ConfigurationError(f"ranks and sizes must be numbers: {error}") from None
    if size != tensor_parallel or not 0 <= rank < size:
        raise ConfigurationError(
            f"RANK={rank} WORLD_SIZE={size} do not match GLM4V_TENSOR_PARALLEL={tensor_parallel}"
        )
    if not 0 <= local_rank < local_size <= size:
        raise ConfigurationError(
            f"LOCAL_RANK={local_rank} LOCAL_WORLD_SIZE={local_size} do not match WORLD_SIZE={size}"
        )
    host, port = environment["MASTER_ADDR"], environment.get("MASTER_PORT") or MASTER_PORT
    return RankConfig(rank, size, f"tcp://{host}:{port}", local_rank, local_size)


def init_group(config: RankConfig, device: Device, rank_timeout_s: float) -> ProcessGroup:
    """Join the group; raises Unavailable if some ranks do not.

    Later, a rank that dies or hangs is noticed within `rank_timeout_s`, seconds.
    """
    return device.init_group(
        config.address,
        rank=config.rank,
        size=config.size,
        timeout_s=rank_timeout_s * _CALL_SHARE,
        join_timeout_s=JOIN_TIMEOUT_S,
    )


class RankProcesses:
    """Ranks above 0 on this host: child processes of rank 0 that exit with it."""

    def __init__(self, size: int) -> None:
        self._folder = TemporaryFolder("ranks")
        self.config = RankConfig(0, size, (self._folder.path / "meeting").as_uri(), local_size=size)
        self._processes = [self._start(rank) for rank in range(1, size)]

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "lm_worker.parallel.follower",
            str(rank),
            self.config.address,
        ]
        return subprocess.Popen(command, stdin=subprocess.PIPE)  # they exit when it closes

    async def watch(self) -> None:
        """Run until cancelled; raises Unavailable if a rank exits."""
        while True:
            for rank, process in enumerate(self._processes, 1):
                if process.poll() is not None:
                    raise Unavailable(
                        f"rank {rank} exited with code {process.returncode}; stopping the "
                        "tensor-parallel group"
                    )
            await asyncio.sleep(_WATCH_INTERVAL_S)

    def stop(self, *, told: bool) -> None:
        """Kill the ranks, after a grace period if they were told to stop; they keep no state."""
        for rank, process in enumerate(self._processes, 1):
            if process.poll():
                log.error("rank %d exited with code %d", rank, process.returncode)
        deadline = time.monotonic() + (_STOP_TIMEOUT_S if told else 0.0)
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
        self._folder.close()
