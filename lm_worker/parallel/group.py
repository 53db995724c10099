"""The processes of one tensor-parallel group: how they find each other, and how they end together.

Ranks of one host are started by rank 0. Over several hosts each is started by hand or by the
cluster with the usual RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from glm4v.device.collectives import ProcessGroup
from glm4v.errors import ConfigurationError, Unavailable
from glm4v.host.temporary_folder import TemporaryFolder

log = logging.getLogger(__name__)

JOIN_S = 120.0  # for all ranks to come
LOAD_S = 1800.0  # for all ranks to read their weights
# A silent rank is noticed when the call after the next beat fails, so both shares together are 1.
BEAT_SHARE = 1 / 3  # of the time a rank may be silent: between two beats
_CALL_SHARE = 2 / 3  # of the same: for one call
_WATCH_S = 0.2
_END_S = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process stands in its group."""

    rank: int
    size: int
    address: str  # where the ranks meet: "tcp://host:port" or "file:///path"; empty for a lone rank


def rank_from_env(environment: Mapping[str, str], tensor_parallel: int) -> Place | None:
    """This process's place when something else starts the ranks, else None.

    Raises ConfigurationError when the variables do not fit each other or `tensor_parallel`.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    given = [name for name in names if environment.get(name)]
    if not given:
        return None
    if len(given) < len(names):
        missing = ", ".join(name for name in names if name not in given)
        raise ConfigurationError(f"{', '.join(given)} set, but not {missing}; set all four or none")
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    except ValueError as error:
        raise ConfigurationError(f"RANK and WORLD_SIZE must be numbers: {error}") from None
    if size != tensor_parallel or not 0 <= rank < size:
        raise ConfigurationError(
            f"RANK={rank} WORLD_SIZE={size} do not fit GLM4V_TENSOR_PARALLEL={tensor_parallel}"
        )
    host, port = environment["MASTER_ADDR"], environment["MASTER_PORT"]
    return Place(rank, size, f"tcp://{host}:{port}")


def join(place: Place, backend: str, rank_timeout_s: float) -> ProcessGroup:
    """Become a rank; raises Unavailable when not all ranks come.

    In the group a rank that dies or hangs is noticed within `rank_timeout_s`, seconds.
    """
    return ProcessGroup(
        backend,
        place.address,
        rank=place.rank,
        size=place.size,
        timeout_s=rank_timeout_s * _CALL_SHARE,
        join_s=JOIN_S,
    )


class Followers:
    """Ranks 1 and up on this host, as children of rank 0 that die with it."""

    def __init__(self, size: int) -> None:
        self._folder = TemporaryFolder("ranks")
        self.place = Place(0, size, (self._folder.path / "meeting").as_uri())
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one host: nothing leaves it
        self._processes = [self._start(rank) for rank in range(1, size)]

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "lm_worker.parallel.follower",
            str(rank),
            self.place.address,
        ]
        return subprocess.Popen(command, stdin=subprocess.PIPE)  # its end tells them ours

    async def watch(self) -> None:
        """Until cancelled; raises Unavailable when a rank has ended."""
        while True:
            for rank, process in enumerate(self._processes, 1):
                if process.poll() is not None:
                    raise Unavailable(f"rank {rank} ended with {process.returncode}: so do we")
            await asyncio.sleep(_WATCH_S)

    def end(self, *, were_told: bool) -> None:
        """Kill them, after a moment if they were told to stop; they have nothing to keep."""
        for rank, process in enumerate(self._processes, 1):
            if process.poll():
                log.error("rank %d had ended with %d", rank, process.returncode)
        deadline = time.monotonic() + (_END_S if were_told else 0.0)
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
        self._folder.close()
