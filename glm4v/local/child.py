"""A running program: a process in its own group, its output read as lines."""

import asyncio
import codecs
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from glm4v.local.pdeathsig import with_pdeathsig

LogSink = Callable[[str, str], None]  # receives the name of a process and a line from or about it

_READ_BYTES = 2**16
_OUTPUT_S = 1.0  # to read the rest of its output; a grandchild may keep the pipe open
_KEPT_LINES = 20


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and how to tell that it is ready."""

    name: str
    command: tuple[str, ...]  # an absolute path, then its arguments
    environment: Mapping[str, str]  # all of it
    is_ready: Callable[[], bool]  # must be quick; called in a thread
    stop_s: float = 15.0  # from SIGTERM to SIGKILL
    silent_s: float = 60.0  # killed if not ready for longer
    start_s: float = 1800.0  # the same after a restart, until it is ready again
    nice: int = 0  # niceness; above 0 lowers its priority


class Child:
    """A running program. When it ends its process group is killed, with all that it started."""

    def __init__(
        self,
        program: Program,
        process: asyncio.subprocess.Process,
        output: asyncio.StreamReader,
        pipe: asyncio.ReadTransport,
        show: LogSink,
    ) -> None:
        self._program = program
        self._process = process
        self._pipe = pipe
        self._show = show
        self._reader = asyncio.ensure_future(self._read_lines(output))
        self.last_lines: deque[str] = deque(maxlen=_KEPT_LINES)

    @classmethod
    async def spawn(cls, program: Program, show: LogSink) -> "Child":
        """Start a program. It is killed when this process ends."""
        # With asyncio's own pipe, waiting for the process would wait for its children too: they
        # inherit the pipe.
        read_end, write_end = os.pipe()
        output = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(read_end, "rb", buffering=0)
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *with_pdeathsig(program.command, program.nice),
                env=program.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # we handle Ctrl-C and stop processes in order
            )
        except BaseException:
            pipe.close()
            raise
        finally:
            os.close(write_end)
        return cls(program, process, output, pipe, show)

    @property
    def pid(self) -> int:
        """Process id; known after the end too."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.returncode is None

    async def ended(self) -> int:
        """Wait for the end and the last output; the exit code, or minus the number of a signal."""
        code = await self._process.wait()
        self.kill()
        await asyncio.wait({self._reader}, timeout=_OUTPUT_S)
        self._reader.cancel()  # done, or the pipe is held by a process outside the group
        self._pipe.close()
        return code

    async def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after `stop_s`."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            async with asyncio.timeout(self._program.stop_s):
                await self._process.wait()
        except TimeoutError:
            self._show(
                self._program.name, f"did not stop within {self._program.stop_s:g} s; killing it"
            )
            self.kill()
        await self.ended()

    def kill(self) -> None:
        """Kill it and all that it started."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def _read_lines(self, output: asyncio.StreamReader) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        while data := await output.read(_READ_BYTES):
            *lines, rest = (rest + decoder.decode(data)).split("\n")
            if len(rest) > _READ_BYTES:  # an endless line must not exhaust memory
                lines, rest = [*lines, rest], ""
            for line in lines:
                self._take(line)
        if rest:
            self._take(rest)

    def _take(self, line: str) -> None:
        line = line.rstrip()
        self.last_lines.append(line)
        self._show(self._program.name, line)
