"""The processes of a tensor-parallel group: how they find each other and exit together.

On one host rank 0 starts the others. On several hosts either one process is started on each, with
torchrun's NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT, and starts the other ranks of its host;
or each rank is started from outside, with torchrun's RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
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
WATCH_INTERVAL_S = 0.2
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
    if not given or environment.get("NNODES"):  # that is for `host_from_env`
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
    return RankConfig(rank, size, _master(environment), local_rank, local_size)


def host_from_env(environment: Mapping[str, str], tensor_parallel: int) -> RankConfig | None:
    """The first rank of this host if one process is started on each of several hosts, else None.

    NODE_RANK 0 is the host of rank 0. All hosts have the same number of ranks.
    Raises ConfigurationError if the variables contradict each other or `tensor_parallel`.
    """
    names = ("NNODES", "NODE_RANK", "MASTER_ADDR")
    if not environment.get("NNODES"):
        return None
    if missing := [name for name in names if not environment.get(name)]:
        raise ConfigurationError(f"NNODES set, but not {', '.join(missing)}; set all or none")
    try:
        hosts, host = int(environment["NNODES"]), int(environment["NODE_RANK"])
    except ValueError as error:
        raise ConfigurationError(f"NNODES and NODE_RANK must be numbers: {error}") from None
    if hosts < 1 or tensor_parallel % hosts or not 0 <= host < hosts:
        raise ConfigurationError(
            f"NNODES={hosts} NODE_RANK={host} do not match GLM4V_TENSOR_PARALLEL={tensor_parallel}"
        )
    local_size = tensor_parallel // hosts
    return RankConfig(
        host * local_size, tensor_parallel, _master(environment), local_size=local_size
    )


def _master(environment: Mapping[str, str]) -> str:
    port = environment.get("MASTER_PORT") or MASTER_PORT
    return f"tcp://{environment['MASTER_ADDR']}:{port}"


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
    """A host's ranks above its first: child processes of that one, which exit with it.

    `first` is the first rank of one of several hosts; None starts a group of `size` on this host.
    `environment` has their settings; None gives them those of this process.
    """

    def __init__(
        self,
        size: int,
        first: RankConfig | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = environment
        self._folder = TemporaryFolder("ranks")
        meeting = (self._folder.path / "meeting").as_uri()
        self.config = first or RankConfig(0, size, meeting, local_size=size)
        self._processes = [self._start(local) for local in range(1, self.config.local_size)]

    def _start(self, local_rank: int) -> subprocess.Popen[bytes]:
        place = (self.config.rank + local_rank, self.config.address, local_rank)
        command = [sys.executable, "-m", "lm_worker.parallel.follower", *map(str, place)]
        command.append(str(self.config.local_size))
        # They exit when it closes.
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=self._environment)

    async def watch(self) -> None:
        """Run until cancelled; raises Unavailable if a rank exits."""
        while True:
            self.check()
            await asyncio.sleep(WATCH_INTERVAL_S)

    def check(self) -> None:
        """Raise Unavailable if a rank has exited without being told to."""
        for rank, process in enumerate(self._processes, self.config.rank + 1):
            if process.poll():
                raise Unavailable(
                    f"rank {rank} exited with code {process.returncode}; stopping the "
                    "tensor-parallel group"
                )

    def stop(self, *, told: bool) -> None:
        """Kill the ranks, after a grace period if they were told to stop; they keep no state."""
        for rank, process in enumerate(self._processes, self.config.rank + 1):
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
