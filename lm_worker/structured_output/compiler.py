"""Tries response formats in processes that may crash, before the worker compiles them.

The worker compiles a format again after it passed, because the library's grammars cannot be sent
between processes. The second time takes the same time and memory, and less stack than it has.
docs/decisions/0009 has the figures.
"""

import asyncio
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread

from glm4v.errors import InvalidRequest, Overloaded
from lm_worker.plan import OutputFormat
from lm_worker.structured_output.compile_server import READY

log = logging.getLogger(__name__)

_START_TIMEOUT_S = 60.0  # interpreter and vocabulary, on a busy machine
_GRACE_S = 10.0  # for the reply, beyond a format's time limit
_MAX_OUTCOMES = 4096  # formats whose outcome is kept
_STOP_TIMEOUT_S = 1.0
_MAX_REPLY = 2**16  # bytes


class Lane(NamedTuple):
    """A CPU time limit, and how many formats are compiled at once under it."""

    cpu_s: float
    at_once: int


class Limits(NamedTuple):
    """What a format may cost. All but the slowest pass the first lane, and never wait for those."""

    quick: Lane = Lane(cpu_s=0.5, at_once=2)
    slow: Lane = Lane(cpu_s=5.0, at_once=1)
    bytes: int = 128 * 2**20
    wall_s: float = 60.0  # beyond this the machine is too busy; the format is not to blame


def server_command(model_dir: Path) -> list[str]:
    """Command of a checkpoint's compile server; the descriptor of its socket is appended."""
    return [sys.executable, "-m", "lm_worker.structured_output.compile_server", str(model_dir)]


class GrammarCompiler:
    """One compile server, started for the first format, and the outcomes so far."""

    def __init__(self, command: Sequence[str], limits: Limits | None = None) -> None:
        self._command = command
        self._limits = limits or Limits()
        self._lanes = {
            lane: anyio.Semaphore(lane.at_once) for lane in (self._limits.quick, self._limits.slow)
        }
        self._outcomes: OrderedDict[bytes, int | InvalidRequest] = OrderedDict()
        self._running: dict[bytes, asyncio.Event] = {}
        self._starting = threading.Lock()  # guards the two below
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.counts: Counter[str] = Counter()  # compiled, refused, crashed, cpu, memory, wall, lost

    async def check(self, output_format: OutputFormat) -> int:
        """Compile a format once; returns the bytes of memory that it took.

        Raises InvalidRequest if it does not compile within the limits, Overloaded if the outcome is
        unknown.
        """
        digest = hashlib.sha256(f"{output_format.kind}\0{output_format.text}".encode()).digest()
        while digest not in self._outcomes and digest in self._running:
            await self._running[digest].wait()
        if digest not in self._outcomes:
            await self._compile(output_format, digest)
        self._outcomes.move_to_end(digest)
        found = self._outcomes[digest]
        if isinstance(found, InvalidRequest):
            raise InvalidRequest(str(found))
        return found

    def close(self) -> None:
        """Stop the server and its compilers. The next format starts another one."""
        with self._starting:
            self._end_server()
        if self.counts:
            log.info(
                "response formats: %s", ", ".join(f"{n} {what}" for what, n in self.counts.items())
            )

    async def _compile(self, output_format: OutputFormat, digest: bytes) -> None:
        self._running[digest] = asyncio.Event()
        try:
            reply = await self._in_lane(self._limits.quick, output_format)
            if reply["outcome"] == "cpu":
                reply = await self._in_lane(self._limits.slow, output_format)
            self._outcomes[digest] = self._verdict(output_format, digest, reply)
            while len(self._outcomes) > _MAX_OUTCOMES:
                self._outcomes.popitem(last=False)
        finally:
            self._running.pop(digest).set()  # waiters look again, and compile themselves

    def _verdict(
        self, output_format: OutputFormat, digest: bytes, reply: dict[str, Any]
    ) -> int | InvalidRequest:
        outcome = reply["outcome"]
        self.counts[outcome] += 1
        if outcome == "compiled":
            return int(reply["bytes"])
        if outcome == "refused":
            return InvalidRequest(reply["message"])
        log.warning(
            "response format %s of %d characters: %s %s (%d so far)",
            digest.hex()[:16],
            len(output_format.text),
            outcome,
            reply.get("message", ""),
            self.counts[outcome],
        )
        name = f"response_format.{output_format.kind}"
        if outcome == "wall":
            raise Overloaded(
                f"{name} was not compiled within {self._limits.wall_s:g} s, "
                "because the server is busy; try again"
            )
        reason = {
            "cpu": f"it takes more than {self._limits.slow.cpu_s:g} s of CPU time",
            "memory": f"it takes more than {self._limits.bytes // 2**20} MiB",
            "crashed": f"the compiler crashed ({reply.get('message')})",
        }[outcome]
        return InvalidRequest(f"{name} could not be compiled: {reason}; simplify it")

    async def _in_lane(self, lane: Lane, output_format: OutputFormat) -> dict[str, Any]:
        request = {
            "kind": output_format.kind,
            "text": output_format.text,
            "cpu_s": lane.cpu_s,
            "wall_s": self._limits.wall_s,
            "bytes": self._limits.bytes,
        }
        async with self._lanes[lane]:
            ours, theirs = socket.socketpair()
            ours.settimeout(self._limits.wall_s + _GRACE_S)
            cancelled = threading.Event()
            try:
                return await anyio.to_thread.run_sync(
                    partial(self._request, ours, theirs, request, cancelled), abandon_on_cancel=True
                )
            finally:
                cancelled.set()
                with suppress(OSError):  # ends the thread and the compiler
                    ours.shutdown(socket.SHUT_RDWR)

    # The methods below run in other threads.

    def _request(
        self,
        ours: socket.socket,
        theirs: socket.socket,
        request: dict[str, Any],
        cancelled: threading.Event,
    ) -> dict[str, Any]:
        """Raises Overloaded without a reply; the next request then starts another server."""
        server: subprocess.Popen[bytes] | None = None
        try:
            with ours, theirs:
                server, control = self._running_server()
                socket.send_fds(control, [b"f"], [theirs.fileno()])
                theirs.close()
                ours.sendall(json.dumps(request).encode() + b"\n")
                reply = json.loads(_read(ours))
                assert isinstance(reply, dict)
                return reply
        except (OSError, ValueError) as error:
            if cancelled.is_set():
                return {}
            self.counts["lost"] += 1
            log.error("no reply from the compile server: %s", error or type(error).__name__)
            with self._starting:
                if server is not None and server is self._server:
                    self._end_server()
            raise Overloaded(
                "response_format could not be compiled: the compiler does not reply; try again"
            ) from None

    def _running_server(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        with self._starting:
            if self._server is not None and self._server.poll() is not None:
                log.error("compile server exited with code %d", self._server.returncode)
                self._end_server()
            if self._server is None or self._control is None:
                self._server, self._control = self._start()
            return self._server, self._control

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        with ExitStack() as unless_it_starts:
            unless_it_starts.enter_context(ours)
            with theirs:
                server = subprocess.Popen(
                    [*self._command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=_environment(),
                )
            unless_it_starts.callback(server.wait)
            unless_it_starts.callback(server.kill)
            ours.settimeout(_START_TIMEOUT_S)
            if ours.recv(1) != READY:
                raise OSError("the compile server exited during startup")
            unless_it_starts.pop_all()
        return server, ours

    def _end_server(self) -> None:
        server, control, self._server, self._control = self._server, self._control, None, None
        if control is not None:
            control.close()
        if server is not None:
            try:
                server.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _environment() -> dict[str, str]:
    """The environment without settings: the URL of Redis may hold a password, and the library
    parses input of clients. More malloc arenas would count as memory of a format.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.upper().startswith("GLM4V_")
    }
    return environment | {"MALLOC_ARENA_MAX": "1"}


def _read(connection: socket.socket) -> bytes:
    """Everything until the other end closes."""
    parts = []
    while part := connection.recv(_MAX_REPLY):
        parts.append(part)
    return b"".join(parts)
