"""Where plans are executed: the ranks of one tensor-parallel group, behind one device thread.

Rank 0 decides, all ranks execute the same commands in the same order.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from glm4v.device.collectives import Collective, ProcessGroup, SingleRank
from glm4v.device.device_thread import DeviceThread
from glm4v.errors import Unavailable
from glm4v.host.out_of_memory import out_of_memory_as_overloaded
from glm4v.tensor_bytes import TensorBytes
from lm_worker.model.runner import NO_MEMORY, Runner, to_tensor
from lm_worker.parallel.commands import AddImage, Beat, Command, DropImage, Stop, encode
from lm_worker.parallel.group import BEAT_SHARE, LOAD_S
from lm_worker.plan import StepPlan, StepResult

log = logging.getLogger(__name__)

_T = TypeVar("_T")
POLL_S = 1.0


class Load(Protocol):
    """Loads rank 0's part of the model."""

    def __call__(self, collective: Collective, *, blocks: int, block_size: int) -> Runner: ...


class Ranks:
    """Runs one command at a time in the device thread.

    `join` forms the group; None for a lone rank. `timeout_s` is how long a rank may be silent.
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
        self._thread = DeviceThread()
        self._load = load
        self._cache = {"blocks": blocks, "block_size": block_size}
        self._join = join
        self._timeout_s = timeout_s
        self._group: ProcessGroup | None = None
        self._runner: Runner | None = None
        self._broken = False  # a call failed: what the other ranks do is not known
        self._closing = threading.Event()
        self.started = asyncio.Event()

    async def start(self) -> None:
        """Form the group and load the weights; raises CheckpointError, Unavailable, Overloaded."""
        await self._call(self._start)
        self.started.set()

    async def execute(self, plan: StepPlan) -> StepResult:
        """One forward pass."""
        return await self._call(partial(self._execute, plan))

    async def add_image(self, digest: str, rows: TensorBytes) -> None:
        """Keep an image's rows until `drop_image`."""
        await self._call(partial(self._add_image, digest, rows))

    async def drop_image(self, digest: str) -> None:
        """Forget an image's rows."""
        await self._call(partial(self._drop_image, digest))

    async def beat(self) -> None:
        """Let the other ranks know that this one lives, and this one that they do; until cancelled.

        Raises Unavailable when one of them has died or hangs.
        """
        await self.started.wait()
        while self._group is not None:
            await asyncio.sleep(self._timeout_s * BEAT_SHARE)
            await self._call(partial(self._tell, Beat()))

    @property
    def progress(self) -> int:
        """Layers computed so far."""
        return self._ready.layers_done

    @property
    def sample_seconds(self) -> float:
        """Seconds rank 0 has spent choosing tokens."""
        return self._ready.sample_seconds

    def close(self) -> bool:
        """Let the command in progress end, and the other ranks stop; in `timeout_s` at most.

        Whether the other ranks were told.
        """
        self._closing.set()
        if self._join is not None and self._group is None:
            return False  # others may never come: they are not waited for
        if self._group is not None and not self._broken:
            self._thread.submit(self._evict)
        if not self._thread.end(self._timeout_s):
            log.error("the device is still busy after %g s and is left so", self._timeout_s)
            return False
        return not self._broken

    @property
    def _ready(self) -> Runner:
        assert self._runner is not None, "start() comes first"
        return self._runner

    async def _call(self, function: Callable[[], _T]) -> _T:
        try:
            with out_of_memory_as_overloaded(NO_MEMORY):
                return await self._thread.call(function)
        except Exception:
            self._broken = True
            raise

    # What follows runs in the device thread.

    def _start(self) -> None:
        collective: Collective = SingleRank()
        if self._join is not None:
            collective = self._group = self._join()
            self._group.send(json.dumps(self._cache).encode())
        self._runner = self._load(collective, **self._cache)
        if self._group is not None:
            self._meet(self._group)

    def _meet(self, group: ProcessGroup) -> None:
        """Wait until all ranks are loaded, looking up now and then whether it is still wanted."""
        deadline = time.monotonic() + LOAD_S
        while True:
            try:
                return group.meet("loaded", POLL_S)
            except Unavailable:
                if self._closing.is_set() or time.monotonic() > deadline:
                    raise
                group.check_restarts()

    def _tell(self, command: Command) -> None:
        if self._group is None:
            return
        try:
            self._group.send(encode(command))
        except RuntimeError as error:  # gloo raises plain ones
            reason = str(error).partition("\n")[0]
            raise Unavailable(f"a rank has died or hangs: {reason}") from error

    def _execute(self, plan: StepPlan) -> StepResult:
        self._tell(plan)
        return self._ready.execute(plan)

    def _add_image(self, digest: str, rows: TensorBytes) -> None:
        self._tell(AddImage(digest, rows))
        self._ready.add_image(digest, to_tensor(rows))

    def _drop_image(self, digest: str) -> None:
        self._tell(DropImage(digest))
        self._ready.drop_image(digest)

    def _evict(self) -> None:
        assert self._group is not None
        try:
            self._tell(Stop())
            self._group.close()
        except Unavailable as error:
            self._broken = True
            log.warning("the group ends broken: %s", error)
