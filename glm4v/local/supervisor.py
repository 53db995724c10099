"""Keeps programs running: starts them in stages, restarts those that end, stops in reverse order.

A program that runs but is not ready for too long is killed and restarted too.
"""

import asyncio
import signal
import time
from collections import deque
from dataclasses import dataclass, field

from glm4v.errors import Glm4vError, Unavailable, by_exit_code
from glm4v.local.child import Child, LogSink, Program

_POLL_S = 0.05
_MAX_RESTARTS = 5  # of one program within the window below
_RESTART_WINDOW_S = 60.0
_FIRST_DELAY_S = 0.2  # before a restart; doubles each time


@dataclass(slots=True)
class _Supervised:
    """A program and its current process."""

    program: Program
    child: Child
    was_ready: bool = False  # any of its processes was
    is_ready: bool = False  # the current process was, and has to stay so
    failed_checks: int = 0  # in a row
    restarts: deque[float] = field(default_factory=deque)  # times within the window


class Supervisor:
    """Starts, watches and stops programs.

    Args:
        show: Receives each line they write, and lines about them under the name "glm4v".
        restart: Whether a program that was ready is restarted when it ends: at most 5 times a
            minute, then `failed` raises. A program that is not ready for too long is killed first.
        check_every_s: Time between two readiness checks of a program.
    """

    def __init__(self, show: LogSink, *, restart: bool = True, check_every_s: float = 5.0) -> None:
        self._show = show
        self._restart = restart
        self._check_every_s = check_every_s
        self._stages: list[list[_Supervised]] = []
        self._watches: list[asyncio.Task[None]] = []
        self._failure: Exception | None = None
        self._has_failed = asyncio.Event()

    async def start(self, *programs: Program) -> None:
        """Start programs that stop together, before those started earlier."""
        stage: list[_Supervised] = []
        self._stages.append(stage)
        for program in programs:
            supervised = _Supervised(program, await Child.spawn(program, self._show))
            stage.append(supervised)
            self._watches.append(asyncio.ensure_future(self._watch(supervised)))
            if self._restart:
                self._watches.append(asyncio.ensure_future(self._check(supervised)))

    async def ready(self, timeout_s: float) -> None:
        """Wait until all programs are ready.

        Raises the error that a process ended with before it was ready, or Unavailable after
        `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while waiting := [supervised for supervised in self._all() if not supervised.was_ready]:
            for supervised in waiting:
                supervised.was_ready = supervised.is_ready = await asyncio.to_thread(
                    supervised.program.is_ready
                )
            if self._failure is not None:
                raise self._failure
            late = waiting[0]
            if time.monotonic() > deadline and not late.was_ready:
                raise Unavailable(
                    f"{late.program.name} was not ready after {timeout_s:g} s; last log line: "
                    + last_log_line(late.child)
                )
            await asyncio.sleep(_POLL_S)

    async def failed(self) -> None:
        """Wait for an error that a restart does not fix, and raise it."""
        await self._has_failed.wait()
        if self._failure is not None:
            raise self._failure

    def process(self, name: str) -> Child:
        """The current process of a program. Raises KeyError if there is no such program."""
        return {supervised.program.name: supervised.child for supervised in self._all()}[name]

    async def stop(self) -> None:
        """Stop all programs, the last stage first. Nothing is restarted afterwards."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for stage in reversed(self._stages):
            await asyncio.gather(*(supervised.child.stop() for supervised in stage))

    def kill(self) -> None:
        """Kill all programs, even while `stop` waits for them."""
        for watch in self._watches:
            watch.cancel()
        for supervised in self._all():
            supervised.child.kill()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to all running programs."""
        for supervised in self._all():
            if supervised.child.is_running:
                supervised.child.send_signal(number)

    def _all(self) -> list[_Supervised]:
        return [supervised for stage in self._stages for supervised in stage]

    async def _watch(self, supervised: _Supervised) -> None:
        try:
            while True:
                code = await supervised.child.ended()
                how = f"{supervised.program.name} ended {describe_exit(code)}"
                if not supervised.was_ready:
                    raise _start_error(supervised, code)
                if not self._restart:
                    self._show("glm4v", how)
                    return
                await self._start_again(supervised, how)
        except Exception as error:
            self._failure = self._failure or error
            self._has_failed.set()

    async def _check(self, supervised: _Supervised) -> None:
        """Kill a program that is no longer ready; `_watch` then restarts it.

        Failed checks are counted, not seconds: a suspended system must not time out.
        """
        while True:
            await asyncio.sleep(self._check_every_s)
            child = supervised.child
            if not (supervised.was_ready and child.is_running):
                continue
            answers = await asyncio.to_thread(supervised.program.is_ready)
            if child is not supervised.child:
                continue  # either process may have answered
            supervised.is_ready = supervised.is_ready or answers
            supervised.failed_checks = 0 if answers else supervised.failed_checks + 1
            program = supervised.program
            limit_s = program.silent_s if supervised.is_ready else program.start_s
            silent_s = supervised.failed_checks * self._check_every_s
            if silent_s >= limit_s:
                self._show("glm4v", f"{program.name} was not ready for {silent_s:g} s; killing it")
                child.kill()

    async def _start_again(self, supervised: _Supervised, how: str) -> None:
        now = time.monotonic()
        while supervised.restarts and now - supervised.restarts[0] > _RESTART_WINDOW_S:
            supervised.restarts.popleft()
        count = len(supervised.restarts)
        if count == _MAX_RESTARTS:
            raise Glm4vError(
                f"{how}, after {count} restarts within {_RESTART_WINDOW_S:g} s; last log line: "
                + last_log_line(supervised.child)
            )
        delay_s = _FIRST_DELAY_S * 2**count
        self._show("glm4v", f"{how}; restarting in {delay_s:.1f} s")
        await asyncio.sleep(delay_s)
        supervised.restarts.append(time.monotonic())
        supervised.is_ready, supervised.failed_checks = False, 0
        supervised.child = await Child.spawn(supervised.program, self._show)


def describe_exit(code: int) -> str:
    """An exit code in words; minus the signal's number for a process that a signal ended."""
    if code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"


def last_log_line(child: Child) -> str:
    """The last line that is not empty, or "nothing"."""
    return next((line for line in reversed(child.last_lines) if line), "nothing")


def _start_error(supervised: _Supervised, code: int) -> Glm4vError:
    """Why a process ended before it was ready; its exit code tells the kind of error."""
    name, lines = supervised.program.name, supervised.child.last_lines
    if lines and (error := by_exit_code(code, f"{name}: {lines[-1].removeprefix('error: ')}")):
        return error
    return Glm4vError(
        f"{name} ended {describe_exit(code)} during startup; last log line: "
        + last_log_line(supervised.child)
    )
