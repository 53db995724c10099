"""Rank 0's side of a tensor-parallel group, behind one device thread.

Rank 0 broadcasts commands; all ranks execute them in the same order.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol, TypeVar

from glm4v.device.collectives import Collective, ProcessGroup, SingleRank
from glm4v.device.device_thread import DeviceThread
from glm4v.errors import Unavailable
from glm4v.host.out_of_memory import out_of_memory_as_overloaded
from glm4v.tensor_bytes import TensorBytes
from lm_worker.model.runner import NO_MEMORY, Runner, to_tensor
from lm_worker.parallel.commands import (
    AddImage,
    Command,
    CommandEncoder,
    DropImage,
    Heartbeat,
    Stop,
)
from lm_worker.parallel.group import HEARTBEAT_SHARE, LOAD_TIMEOUT_S
from lm_worker.plan import StepPlan, StepResult

log = logging.getLogger(__name__)

_T = TypeVar("_T")
POLL_S = 1.0


class RunnerFactory(Protocol):
    """Loads rank 0's shard of the model."""

    def __call__(self, collective: Collective, *, blocks: int, block_size: int) -> Runner: ...


class Ranks:
    """Runs one command at a time in the device thread.

    `init_group` joins the other ranks; None for a single rank. `timeout_s` is how long a rank may
    be silent. `device_errors` is `Device.errors` of the device.
    """

    def __init__(
        self,
        load: RunnerFactory,
        *,
        blocks: int,
        block_size: int,
        init_group: Callable[[], ProcessGroup] | None = None,
        timeout_s: float = 30.0,
        device_errors: Callable[[str], AbstractContextManager[None]] = out_of_memory_as_overloaded,
    ) -> None:
        self._thread = DeviceThread()
        self._commands = CommandEncoder()
        self._load = load
        self._cache = {"blocks": blocks, "block_size": block_size}
        self._init_group = init_group
        self._timeout_s = timeout_s
        self._device_errors = device_errors
        self._group: ProcessGroup | None = None
        self._runner: Runner | None = None
        self._broken = False  # a call failed; the state of the other ranks is unknown
        self._closing = threading.Event()
        self.started = asyncio.Event()

    async def start(self) -> None:
        """Join the group and load the weights; raises CheckpointError, Unavailable, Overloaded."""
        await self._call(self._start)
        self.started.set()

    async def execute(self, plan: StepPlan) -> StepResult:
        """One forward pass."""
        return await self._call(partial(self._execute, plan))

    async def add_image(self, digest: str, embedding: TensorBytes) -> None:
        """Keep an image's embedding until `drop_image`."""
        await self._call(partial(self._add_image, digest, embedding))

    async def drop_image(self, digest: str) -> None:
        """Free an image's embedding."""
        await self._call(partial(self._drop_image, digest))

    async def heartbeat(self) -> None:
        """Send heartbeats to the other ranks until cancelled.

        Raises Unavailable if one of them died or hangs.
        """
        await self.started.wait()
        while self._group is not None:
            await asyncio.sleep(self._timeout_s * HEARTBEAT_SHARE)
            await self._call(partial(self._broadcast, Heartbeat()))

    @property
    def progress(self) -> int:
        """Layers computed so far."""
        return self._ready.layers_done

    @property
    def sample_seconds(self) -> float:
        """Seconds rank 0 has spent sampling."""
        return self._ready.sample_seconds

    def close(self) -> bool:
        """Finish the command in progress and stop the other ranks, within `timeout_s`.

        Does not wait for weights that are still being read, or for ranks that have not joined.
        Returns whether the other ranks were told to stop.
        """
        self._closing.set()
        if not self.started.is_set():
            self._thread.end(0.0)
            return False
        if self._group is not None and not self._broken:
            self._thread.submit(self._leave_group)
        if not self._thread.end(self._timeout_s):
            log.error("device did not finish within %g s; exiting anyway", self._timeout_s)
            return False
        return not self._broken

    @property
    def _ready(self) -> Runner:
        assert self._runner is not None, "start() was not called"
        return self._runner

    async def _call(self, function: Callable[[], _T]) -> _T:
        try:
            with self._device_errors(NO_MEMORY):
                return await self._thread.call(function)
        except Exception:
            self._broken = True
            raise

    # The methods below run in the device thread.

    def _start(self) -> None:
        collective: Collective = SingleRank()
        if self._init_group is not None:
            collective = self._group = self._init_group()
            self._group.send(json.dumps(self._cache).encode())
        self._runner = self._load(collective, **self._cache)
        if self._group is not None:
            self._wait_until_loaded(self._group)

    def _wait_until_loaded(self, group: ProcessGroup) -> None:
        """Wait until all ranks have loaded, polling for `close` and for ranks that restarted."""
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        while True:
            try:
                return group.barrier("loaded", POLL_S)
            except Unavailable:
                if self._closing.is_set() or time.monotonic() > deadline:
                    raise
                group.check_restarts()

    def _broadcast(self, command: Command) -> None:
        if self._group is None:
            return
        self._group.send(self._commands.encode(command))

    def _execute(self, plan: StepPlan) -> StepResult:
        self._broadcast(plan)
        return self._ready.execute(plan)

    def _add_image(self, digest: str, embedding: TensorBytes) -> None:
        self._broadcast(AddImage(digest, embedding))
        self._ready.add_image(digest, to_tensor(embedding))

    def _drop_image(self, digest: str) -> None:
        self._broadcast(DropImage(digest))
        self._ready.drop_image(digest)

    def _leave_group(self) -> None:
        assert self._group is not None
        try:
            self._broadcast(Stop())
            self._group.close()
        except Unavailable as error:
            self._broken = True
            log.warning("could not shut the tensor-parallel group down cleanly: %s", error)
