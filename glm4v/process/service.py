"""Runs a process: listeners, signals, health, tasks, drain.

load()  ready() ── SERVING, tasks run ── SIGTERM/INT/HUP ── NOT_SERVING, `stopping` is set, drain
                       │                                       │
                       └── a task raises: exit with            ├── all done, or timeout: exit 0
                           the code of its error               └── second signal: exit 130 at once

The drain is the same for all listeners: they refuse calls, then stop; calls and tasks in progress
have until the timeout. The health listener answers to the end.
"""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
import uvloop
from anyio.abc import TaskGroup

from glm4v.errors import Glm4vError, Overloaded, Unavailable
from glm4v.host.out_of_memory import is_out_of_memory
from glm4v.process.early_stop import EarlyStop
from glm4v.process.environment import read_settings
from glm4v.process.exit import run_and_exit
from glm4v.process.health import Health
from glm4v.process.health_listener import HealthListener
from glm4v.process.listener import Listener
from glm4v.process.metrics_listener import MetricsListener
from glm4v.process.settings import ServiceSettings
from glm4v.process.stop_signals import stop_signals
from glm4v.telemetry.log import start_log
from glm4v.telemetry.metrics import Registry

log = logging.getLogger(__name__)

_S = TypeVar("_S", bound=ServiceSettings)
_Task = Callable[[], Awaitable[None]]
_READY_RETRY_S = 0.2
_LOG_EVERY = 50  # tries with the same outcome
_REFUSING_S = 0.25  # between refusing calls and stopping (see `drain_interceptor`)


@dataclass(slots=True)
class Process:
    """What a process consists of; its `__main__` fills it in.

    Attributes:
        ready: Returns once the process can serve; raises Unavailable or Overloaded before.
        listeners: In the order in which they start.
        load: Runs at the start, beside `ready`, and is cancelled when the process stops.
        tasks: Start once `ready` has returned; have to return soon after `stopping` is set.
        daemons: Run from the start until all tasks and calls have ended.
        close: Releases what the process holds.
        metrics: Served at the address of the setting `metrics_listen`.
        stopping: Set by the first signal.
    """

    ready: _Task
    listeners: Sequence[Listener]
    load: _Task | None = None
    tasks: Sequence[_Task] = ()
    daemons: Sequence[_Task] = ()
    close: _Task | None = None
    metrics: Registry = field(default_factory=Registry)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


def main(kind: type[_S], build: Callable[[_S], Process]) -> None:
    """Run a process to its end; the exit code is that of the error that ended it."""

    def run() -> None:
        settings = read_settings(kind)
        start_log(settings.log_level)
        with EarlyStop():
            process = build(settings)
        uvloop.run(_Host(settings, process).run())

    run_and_exit(run)


class _Host:
    """One run of a process."""

    def __init__(self, settings: ServiceSettings, process: Process) -> None:
        self._settings = settings
        self._process = process
        self._health = Health()
        self._failure: Exception | None = None
        self._running_tasks = 0
        self._tasks_done = asyncio.Event()

    async def run(self) -> None:
        self._install_signals()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close)
            if self._settings.health_listen:
                await self._start(HealthListener(self._settings.health_listen), stack)
            if self._settings.metrics_listen:
                metrics = MetricsListener(self._settings.metrics_listen, self._process.metrics)
                await self._start(metrics, stack)
            for each in self._process.listeners:
                await self._start(each, stack)
            async with anyio.create_task_group() as group:
                await self._serve(group)
                group.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        log.info("stopped")

    async def _start(self, listener: Listener, stack: AsyncExitStack) -> None:
        await listener.start(self._health)
        stack.push_async_callback(listener.stop, 0)

    async def _close(self) -> None:
        """Close, unless memory has run out: then nothing may start a thread. CPython's
        `Thread.start` waits for ever when the new thread finds no memory (seen with 3.11.7).
        """
        is_out = self._failure is not None and is_out_of_memory(self._failure)
        if self._process.close is not None and not is_out:
            await self._process.close()

    async def _serve(self, group: TaskGroup) -> None:
        """From the first task to the end of the drain."""
        first = [self._become_ready, self._process.load, *self._process.daemons]
        for task in first:
            if task is not None:
                group.start_soon(self._guard, group, task)
        await self._process.stopping.wait()
        log.info("draining for at most %.1f s", self._settings.drain_timeout_s)
        with anyio.move_on_after(self._settings.drain_timeout_s):
            await self._drain()

    async def _drain(self) -> None:
        timeout_s, listeners = self._settings.drain_timeout_s, self._process.listeners
        self._health.set_serving(False)
        for listener in listeners:
            await listener.refuse()
        await asyncio.sleep(min(_REFUSING_S, timeout_s / 4))
        self._health.end_watches()
        with anyio.CancelScope(shield=True):  # gRPC's own task does not survive a cancellation
            await asyncio.gather(*(listener.stop(timeout_s / 2) for listener in listeners))
        if self._running_tasks:
            await self._tasks_done.wait()

    async def _guard(self, group: TaskGroup, task: _Task) -> None:
        """A task that raises ends the process; the first error is kept."""
        try:
            await task()
        except Exception as caught:
            error = _innermost(caught)
            if not isinstance(error, Glm4vError):
                log.exception("a background task failed")
            self._failure = self._failure or error
            group.cancel_scope.cancel()

    async def _become_ready(self) -> None:
        """Wait until the process can serve, say so, and run its tasks to their end."""
        await self._wait_until_ready()
        if self._process.stopping.is_set():
            return
        # What was built so far stays to the end: collections need not look at it any more.
        gc.collect()
        gc.freeze()
        self._health.set_serving(True)
        log.info("ready on %s", self._settings.listen)
        self._running_tasks = len(self._process.tasks)
        async with anyio.create_task_group() as group:
            for task in self._process.tasks:
                group.start_soon(self._count_down, task)

    async def _count_down(self, task: _Task) -> None:
        await task()
        self._running_tasks -= 1
        if self._running_tasks == 0:
            self._tasks_done.set()

    async def _wait_until_ready(self) -> None:
        told, tries = "", 0
        while True:
            try:
                await self._process.ready()
            except (Unavailable, Overloaded) as error:
                if str(error) != told or tries % _LOG_EVERY == 0:
                    told, tries = str(error), 0
                    log.warning("not ready: %s", error)
                tries += 1
                await asyncio.sleep(_READY_RETRY_S)
            else:
                return

    def _install_signals(self) -> None:
        def stop(number: signal.Signals) -> None:
            # The second signal ends the process at once; but a closed terminal may send two.
            if self._process.stopping.is_set() and number != signal.SIGHUP:
                os._exit(130)
            self._process.stopping.set()

        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, stop, number)


def _innermost(error: Exception) -> Exception:
    """The first error in what a task group raised, however deep."""
    while inner := getattr(error, "exceptions", None):
        error = inner[0]
    return error
