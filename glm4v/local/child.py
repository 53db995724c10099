"""One life of one program: a process in a group of its own, its output as lines."""

import asyncio
import codecs
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from glm4v.local.pdeathsig import with_pdeathsig

LogSink = Callable[[str, str], None]  # takes a process's name and one line about or from it

_READ_BYTES = 2**16
_OUTPUT_S = 1.0  # how long the rest of its output is waited for; a grandchild may hold the pipe
_KEPT_LINES = 20


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and how to see that it is ready."""

    name: str
    command: tuple[str, ...]  # an absolute path, then its arguments
    environment: Mapping[str, str]  # all of it
    is_ready: Callable[[], bool]  # quick; called in a thread
    stop_s: float = 15.0  # from SIGTERM to SIGKILL
    silent_s: float = 60.0  # it is killed when it has not been ready for so long
    start_s: float = 1800.0  # the same for one that was started again and loads
    nice: int = 0  # above 0: it gives way to those below


class Child:
    """A running program. Its group is killed when it ends: nothing it started stays behind."""

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
        """Start a program; it ends with this process at the latest."""
        # A pipe of our own: waiting for a process with asyncio's waits for its pipes too, and what
        # it started may hold them.
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
                start_new_session=True,  # Ctrl-C in a terminal is ours to pass on, in order
            )
        except BaseException:
            pipe.close()
            raise
        finally:
            os.close(write_end)
        return cls(program, process, output, pipe, show)

    @property
    def pid(self) -> int:
        """Process id, also after its end."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    async def ended(self) -> int:
        """Its exit code, or minus the signal that ended it, once all its output is read."""
        code = await self._process.wait()
        self.kill()
        await asyncio.wait({self._reader}, timeout=_OUTPUT_S)
        self._reader.cancel()  # nothing to do, or held by something that left the group
        self._pipe.close()
        return code

    async def stop(self) -> None:
        """Ask it to end, and end it when it does not."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), self._program.stop_s)
        except TimeoutError:
            self._show(self._program.name, f"still there after {self._program.stop_s:g} s: killed")
            self.kill()
        await self.ended()

    def kill(self) -> None:
        """End it and all it started, now."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to it and all it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def _read_lines(self, output: asyncio.StreamReader) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        while data := await output.read(_READ_BYTES):
            *lines, rest = (rest + decoder.decode(data)).split("\n")
            if len(rest) > _READ_BYTES:  # a line without end must not fill our memory
                lines, rest = [*lines, rest], ""
            for line in lines:
                self._take(line)
        if rest:
            self._take(rest)

    def _take(self, line: str) -> None:
        line = line.rstrip()
        self.last_lines.append(line)
        self._show(self._program.name, line)
