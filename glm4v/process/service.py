"""Hosts a process: signals, health, reflection, background tasks, drain.

start ── ready() ── SERVING ── SIGTERM/INT/HUP ── NOT_SERVING, `stopping` is set ── parts return
                       │                                    │
                       └── a task raises: exit with         ├── all done, or out of time: exit 0
                           the code of its error            └── second signal: exit 130 at once
"""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
import uvloop
from anyio.abc import TaskGroup
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from glm4v.errors import Glm4vError, Overloaded, Unavailable
from glm4v.host.out_of_memory import is_out_of_memory
from glm4v.process.call_limits import CallLimits
from glm4v.process.drain_interceptor import DrainInterceptor
from glm4v.process.error_interceptor import ErrorInterceptor
from glm4v.process.exit import run_and_exit
from glm4v.process.listen_address import bind
from glm4v.process.receive_interceptor import CallReceiver, ReceiveInterceptor
from glm4v.process.server_options import raise_file_limit, server_options
from glm4v.process.settings import ServiceSettings, read_settings, variable_of
from glm4v.process.stop_signals import stop_signals
from glm4v.telemetry.log import start_log

log = logging.getLogger(__name__)

_S = TypeVar("_S", bound=ServiceSettings)
_Task = Callable[[], Awaitable[None]]
_READY_RETRY_S = 0.2
_LOG_EVERY = 50  # tries with the same outcome
_REFUSING_S = 0.25  # callers are sent elsewhere before gRPC stops (see `draining`)
_HEALTH = "grpc.health.v1.Health"
_SMALL_MESSAGE = 64 * 2**10  # a health check has no more


@dataclass(slots=True)
class Process:
    """What a process consists of; its `__main__` fills it in."""

    ready: _Task  # raises Unavailable or Overloaded while it cannot serve
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    parts: Sequence[_Task] = ()  # return by themselves once `stopping` is set
    daemons: Sequence[_Task] = ()  # run until they are cancelled, after all parts and calls
    register: Callable[[aio.Server], Sequence[str]] | None = None  # adds services, names them
    close: _Task | None = None
    limits: CallLimits = field(default_factory=CallLimits)


def main(kind: type[_S], build: Callable[[_S], Process]) -> None:
    """Run a process to its end; the exit code is that of the error that ended it."""

    def run() -> None:
        settings = read_settings(kind)
        start_log(settings.log_level)
        uvloop.run(_Host(settings, build(settings)).run())

    run_and_exit(run)


class _Host:
    """One run of a process."""

    def __init__(self, settings: ServiceSettings, process: Process) -> None:
        self._settings = settings
        self._process = process
        self._failure: Exception | None = None
        self._parts_left = len(process.parts)
        self._parts_done = asyncio.Event()

    async def run(self) -> None:
        self._install_signals()
        raise_file_limit()
        limits = self._process.limits
        server = aio.server(
            interceptors=[
                DrainInterceptor(self._process.stopping),
                ErrorInterceptor(),
                ReceiveInterceptor(CallReceiver(limits)),
            ],
            options=server_options(limits),
        )
        self._health = health.aio.HealthServicer()
        self._services = ["", _HEALTH, *(self._process.register or (lambda _: ()))(server)]
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        beside = self._health_server()
        names = [*self._services[1:], reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, server)
        bind(server, self._settings.listen, variable_of("listen"))
        await server.start()
        await beside.start()
        try:
            async with anyio.create_task_group() as group:
                await self._live(group, server)
                group.cancel_scope.cancel()
        finally:
            await server.stop(0)
            await beside.stop(0)
            if self._process.close is not None and not self._is_out_of_memory():
                await self._process.close()
        if self._failure is not None:
            raise self._failure
        log.info("stopped")

    def _is_out_of_memory(self) -> bool:
        """Whether that is the end: then nothing is closed that may start a thread. CPython's
        `Thread.start` waits for ever when the new thread finds no memory (seen with 3.11.7).
        """
        return self._failure is not None and is_out_of_memory(self._failure)

    def _health_server(self) -> aio.Server:
        """Health alone, where settings say so: no client of the other server is in its way."""
        server = aio.server(options=server_options(CallLimits(max_message_bytes=_SMALL_MESSAGE)))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._settings.health_listen:
            bind(server, self._settings.health_listen, variable_of("health_listen"))
        return server

    async def _live(self, group: TaskGroup, server: aio.Server) -> None:
        """From the first task to the end of the drain."""
        tasks = [self._announce, *self._process.daemons]
        for task in tasks:
            group.start_soon(self._guard, group, task)
        for part in self._process.parts:
            group.start_soon(self._guard, group, part, True)
        await self._process.stopping.wait()
        log.info("draining for at most %.1f s", self._settings.drain_timeout_s)
        with anyio.move_on_after(self._settings.drain_timeout_s):
            await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
            await asyncio.sleep(min(_REFUSING_S, self._settings.drain_timeout_s / 4))
            with anyio.CancelScope(shield=True):  # gRPC's own task does not stand a cancellation
                await server.stop(self._settings.drain_timeout_s / 2)
            if self._parts_left:
                await self._parts_done.wait()

    async def _guard(self, group: TaskGroup, task: _Task, part: bool = False) -> None:
        """A task that dies takes the process with it, and its reason is kept."""
        try:
            await task()
        except Exception as caught:
            error = _innermost(caught)
            if not isinstance(error, Glm4vError):
                log.exception("a background task died")
            self._failure = self._failure or error
            group.cancel_scope.cancel()
        if part:
            self._parts_left -= 1
            if self._parts_left == 0:
                self._parts_done.set()

    async def _announce(self) -> None:
        told, tries = "", 0
        while True:
            try:
                await self._process.ready()
                break
            except (Unavailable, Overloaded) as error:
                if str(error) != told or tries % _LOG_EVERY == 0:
                    told, tries = str(error), 0
                    log.warning("not ready: %s", error)
                tries += 1
                await asyncio.sleep(_READY_RETRY_S)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        log.info("ready on %s", self._settings.listen)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in self._services:
            await self._health.set(name, status)

    def _install_signals(self) -> None:
        def stop(number: signal.Signals) -> None:
            # The second signal means now; but a terminal that is closed may say so twice.
            if self._process.stopping.is_set() and number != signal.SIGHUP:
                os._exit(130)
            self._process.stopping.set()

        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, stop, number)


def _innermost(error: Exception) -> Exception:
    """The first reason in what a task group raised, however deep."""
    while inner := getattr(error, "exceptions", None):
        error = inner[0]
    return error
