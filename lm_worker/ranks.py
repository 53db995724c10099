"""Where plans are executed: the ranks of one tensor-parallel group, behind one device thread.

Rank 0 decides, all ranks execute the same commands in the same order.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from glm4v.device.collectives import Collective, ProcessGroup, SingleRank
from glm4v.tensor_bytes import TensorBytes
from lm_worker.commands import AddPicture, Beat, Command, DropPicture, Stop, encode
from lm_worker.group import LOAD_S
from lm_worker.plan import SampledToken, StepPlan
from lm_worker.runner import Runner, to_tensor

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Load(Protocol):
    """Loads rank 0's part of the model."""

    def __call__(self, collective: Collective, *, blocks: int, block_size: int) -> Runner: ...


class Ranks:
    """Runs one command at a time in a named thread, so that the event loop stays free.

    `join` forms the group; None for a lone rank.
    """

    def __init__(
        self,
        load: Load,
        *,
        blocks: int,
        block_size: int,
        join: Callable[[], ProcessGroup] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._load = load
        self._cache = {"blocks": blocks, "block_size": block_size}
        self._join = join
        self._timeout_s = timeout_s
        self._group: ProcessGroup | None = None
        self._runner: Runner | None = None
        self.started = asyncio.Event()

    async def start(self) -> None:
        """Form the group and load the weights; raises CheckpointError, Unavailable."""
        await self._call(self._start)
        self.started.set()

    async def execute(self, plan: StepPlan) -> tuple[SampledToken, ...]:
        """One forward pass."""
        return await self._call(self._execute, plan)

    async def add_picture(self, digest: str, rows: TensorBytes) -> None:
        """Keep a picture's rows until `drop_picture`."""
        await self._call(self._add_picture, digest, rows)

    async def drop_picture(self, digest: str) -> None:
        """Forget a picture's rows."""
        await self._call(self._drop_picture, digest)

    async def beat(self) -> None:
        """Let the other ranks know that this one lives, and this one that they do; until cancelled.

        Raises when one of them has died or hangs.
        """
        await self.started.wait()
        while self._group is not None:
            await asyncio.sleep(self._timeout_s / 3)
            await self._call(self._tell, Beat())

    @property
    def progress(self) -> int:
        """Layers computed so far."""
        return self._ready.layers_done

    def close(self) -> None:
        """Let the command in progress end, and the other ranks stop."""
        if self._group is not None:
            self._thread.submit(self._leave)
        self._thread.shutdown(wait=True)

    @property
    def _ready(self) -> Runner:
        assert self._runner is not None, "start() comes first"
        return self._runner

    async def _call(self, function: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    # What follows runs in the device thread.

    def _start(self) -> None:
        collective: Collective = SingleRank()
        if self._join is not None:
            collective = self._group = self._join()
            self._group.send(json.dumps(self._cache).encode())
        self._runner = self._load(collective, **self._cache)
        if self._group is not None:
            self._group.meet("loaded", LOAD_S)

    def _tell(self, command: Command) -> None:
        if self._group is not None:
            self._group.send(encode(command))

    def _execute(self, plan: StepPlan) -> tuple[SampledToken, ...]:
        self._tell(plan)
        return self._ready.execute(plan)

    def _add_picture(self, digest: str, rows: TensorBytes) -> None:
        self._tell(AddPicture(digest, rows))
        self._ready.add_picture(digest, to_tensor(rows))

    def _drop_picture(self, digest: str) -> None:
        self._tell(DropPicture(digest))
        self._ready.drop_picture(digest)

    def _leave(self) -> None:
        try:
            self._tell(Stop())
        except RuntimeError as error:  # a rank has died: there is nobody to tell
            log.warning("the group is broken: %s", error)
