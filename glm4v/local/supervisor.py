"""Keeps programs running: starts them in stages, starts again what dies, stops in reverse order.

Dead is also what runs and does not answer: it is killed after a time, and started again.
"""

import asyncio
import signal
import time
from collections import deque
from dataclasses import dataclass, field

from glm4v.errors import Glm4vError, Unavailable
from glm4v.local.child import Child, LogSink, Program

_POLL_S = 0.05
_MAX_RESTARTS = 5  # of one program within the window below
_RESTART_WINDOW_S = 60.0
_FIRST_DELAY_S = 0.2  # before a restart; doubled each time


@dataclass(slots=True)
class _Supervised:
    """A program that is kept running."""

    program: Program
    child: Child
    was_ready: bool = False  # in any of its lives
    is_ready: bool = False  # this process has been, so that it has to stay so
    failed_checks: int = 0  # in a row
    restarts: deque[float] = field(default_factory=deque)  # times within the window


class Supervisor:
    """Programs and their processes.

    Args:
        show: Gets every line they write, and under the name "glm4v" what happens to them.
        restart: Whether a program that dies after it was ready is started again: at most 5 times
            a minute, then `failed` raises. So is one that runs and is not ready for too long.
        check_every_s: Time between two looks at whether a program is still ready.
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
        """Start programs that are stopped together, before all that were started earlier."""
        stage: list[_Supervised] = []
        self._stages.append(stage)
        for program in programs:
            kept = _Supervised(program, await Child.spawn(program, self._show))
            stage.append(kept)
            self._watches.append(asyncio.ensure_future(self._watch(kept)))
            if self._restart:
                self._watches.append(asyncio.ensure_future(self._check(kept)))

    async def ready(self, timeout_s: float) -> None:
        """Return when all are ready.

        Raises the error that a process ended with before it was ready, or Unavailable when it
        takes longer than `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while waiting := [kept for kept in self._kept() if not kept.was_ready]:
            for kept in waiting:
                kept.was_ready = kept.is_ready = await asyncio.to_thread(kept.program.is_ready)
            if self._failure is not None:
                raise self._failure
            late = waiting[0]
            if time.monotonic() > deadline and not late.was_ready:
                raise Unavailable(
                    f"{late.program.name} was not ready after {timeout_s:g} s; it said: "
                    + last_log_line(late.child)
                )
            await asyncio.sleep(_POLL_S)

    async def failed(self) -> None:
        """Wait for something that a restart does not mend, and raise it."""
        await self._has_failed.wait()
        if self._failure is not None:
            raise self._failure

    def process(self, name: str) -> Child:
        """The newest process of a program. KeyError when there is no such program."""
        return {kept.program.name: kept.child for kept in self._kept()}[name]

    async def stop(self) -> None:
        """End all, the last stage first. After it nothing is restarted."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for stage in reversed(self._stages):
            await asyncio.gather(*(kept.child.stop() for kept in stage))

    def kill(self) -> None:
        """End all now, whatever `stop` still waits for."""
        for watch in self._watches:
            watch.cancel()
        for kept in self._kept():
            kept.child.kill()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to all that run."""
        for kept in self._kept():
            if kept.child.is_running:
                kept.child.send_signal(number)

    def _kept(self) -> list[_Supervised]:
        return [kept for stage in self._stages for kept in stage]

    async def _watch(self, kept: _Supervised) -> None:
        try:
            while True:
                code = await kept.child.ended()
                how = f"{kept.program.name} ended {_how(code)}"
                if not kept.was_ready:
                    raise _start_error(kept, code)
                if not self._restart:
                    self._show("glm4v", how)
                    return
                await self._start_again(kept, how)
        except Exception as error:
            self._failure = self._failure or error
            self._has_failed.set()

    async def _check(self, kept: _Supervised) -> None:
        """Kill what is no longer ready; `_watch` then starts it again.

        Checks are counted, not seconds: while all are suspended nobody is late.
        """
        while True:
            await asyncio.sleep(self._check_every_s)
            child = kept.child
            if not (kept.was_ready and child.is_running):
                continue
            answers = await asyncio.to_thread(kept.program.is_ready)
            if child is not kept.child:
                continue  # the answer may be either's
            kept.is_ready = kept.is_ready or answers
            kept.failed_checks = 0 if answers else kept.failed_checks + 1
            program = kept.program
            limit_s = program.silent_s if kept.is_ready else program.start_s
            silent_s = kept.failed_checks * self._check_every_s
            if silent_s >= limit_s:
                self._show("glm4v", f"{program.name} was not ready for {silent_s:g} s: killed")
                child.kill()

    async def _start_again(self, kept: _Supervised, how: str) -> None:
        now = time.monotonic()
        while kept.restarts and now - kept.restarts[0] > _RESTART_WINDOW_S:
            kept.restarts.popleft()
        count = len(kept.restarts)
        if count == _MAX_RESTARTS:
            raise Glm4vError(
                f"{how}, after {count} restarts within {_RESTART_WINDOW_S:g} s; it said: "
                + last_log_line(kept.child)
            )
        delay_s = _FIRST_DELAY_S * 2**count
        self._show("glm4v", f"{how}; starting it again in {delay_s:.1f} s")
        await asyncio.sleep(delay_s)
        kept.restarts.append(time.monotonic())
        kept.is_ready, kept.failed_checks = False, 0
        kept.child = await Child.spawn(kept.program, self._show)


def _how(code: int) -> str:
    if code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"


def last_log_line(child: Child) -> str:
    return next((line for line in reversed(child.last_lines) if line), "nothing")


def _start_error(kept: _Supervised, code: int) -> Glm4vError:
    """What a process that never became ready ended with; its exit code names the kind."""
    for kind in Glm4vError.__subclasses__():
        if kind.exit_code == code != Glm4vError.exit_code and kept.child.last_lines:
            last = kept.child.last_lines[-1].removeprefix("error: ")
            return kind(f"{kept.program.name}: {last}")
    return Glm4vError(
        f"{kept.program.name} ended {_how(code)} while it started; it said: "
        + last_log_line(kept.child)
    )
