"""Finds out whether a form can be compiled, in processes that may be killed for it.

What was proven here the worker compiles again for itself: the library gives nothing that could be
sent, and the same form takes the same time, memory and less than the stack it has.
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

_START_S = 60.0  # for an interpreter and the vocabulary, on a busy machine
_GRACE_S = 10.0  # the server's answer behind the bound of a form
_KNOWN = 4096  # forms whose outcome is kept
_END_S = 1.0
_MAX_ANSWER = 2**16  # bytes


class Lane(NamedTuple):
    """A bound of processor time, and how many forms are compiled at once under it."""

    cpu_s: float
    at_once: int


class Bounds(NamedTuple):
    """What a form may cost. All but the slowest pass the first lane and never wait for those."""

    quick: Lane = Lane(cpu_s=0.5, at_once=2)
    slow: Lane = Lane(cpu_s=5.0, at_once=1)
    bytes: int = 128 * 2**20
    wall_s: float = 60.0  # beyond this the machine is to blame, not the form


def server_command(model_dir: Path) -> list[str]:
    """What starts the server of a checkpoint's forms; the number of its socket goes behind it."""
    return [sys.executable, "-m", "lm_worker.structured_output.compile_server", str(model_dir)]


class GrammarCompiler:
    """One server of forms, started when the first form comes, and what it found out."""

    def __init__(self, command: Sequence[str], bounds: Bounds | None = None) -> None:
        self._command = command
        self._bounds = bounds or Bounds()
        self._lanes = {
            lane: anyio.Semaphore(lane.at_once) for lane in (self._bounds.quick, self._bounds.slow)
        }
        self._known: OrderedDict[bytes, int | InvalidRequest] = OrderedDict()
        self._asking: dict[bytes, asyncio.Event] = {}
        self._starting = threading.Lock()  # of the two below
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.counts: Counter[str] = Counter()  # compiled, refused, crashed, cpu, memory, wall, lost

    async def prove(self, form: OutputFormat) -> int:
        """Return when `form` is known to compile: the bytes that it took.

        Raises InvalidRequest when it does not, or not within the bounds; Overloaded when nothing
        could be found out.
        """
        digest = hashlib.sha256(f"{form.kind}\0{form.text}".encode()).digest()
        while digest not in self._known and digest in self._asking:
            await self._asking[digest].wait()
        if digest not in self._known:
            await self._find_out(form, digest)
        self._known.move_to_end(digest)
        found = self._known[digest]
        if isinstance(found, InvalidRequest):
            raise InvalidRequest(str(found))
        return found

    def end(self) -> None:
        """End the server, and what it has under way. The next form starts another."""
        with self._starting:
            self._end_server()
        if self.counts:
            log.info("forms: %s", ", ".join(f"{n} {what}" for what, n in self.counts.items()))

    async def _find_out(self, form: OutputFormat, digest: bytes) -> None:
        self._asking[digest] = asyncio.Event()
        try:
            answer = await self._in_lane(self._bounds.quick, form)
            if answer["outcome"] == "cpu":
                answer = await self._in_lane(self._bounds.slow, form)
            self._known[digest] = self._resolve_mismatch(form, digest, answer)
            while len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        finally:
            self._asking.pop(digest).set()  # who waits looks again, and asks itself

    def _resolve_mismatch(
        self, form: OutputFormat, digest: bytes, answer: dict[str, Any]
    ) -> int | InvalidRequest:
        outcome = answer["outcome"]
        self.counts[outcome] += 1
        if outcome == "compiled":
            return int(answer["bytes"])
        if outcome == "refused":
            return InvalidRequest(answer["message"])
        log.warning(
            "form=%s of %d characters: %s %s (%d times so far)",
            digest.hex()[:16],
            len(form.text),
            outcome,
            answer.get("message", ""),
            self.counts[outcome],
        )
        name = f"response_format.{form.kind}"
        if outcome == "wall":
            raise Overloaded(
                f"{name} was not compiled within {self._bounds.wall_s:g} s, "
                "as the machine is busy; ask again"
            )
        reason = {
            "cpu": f"it takes more than {self._bounds.slow.cpu_s:g} s of processor time",
            "memory": f"it takes more than {self._bounds.bytes // 2**20} MiB",
            "crashed": f"the compiler was ended by {answer.get('message')}",
        }[outcome]
        return InvalidRequest(f"{name} could not be compiled: {reason}; simplify it")

    async def _in_lane(self, lane: Lane, form: OutputFormat) -> dict[str, Any]:
        order = {
            "kind": form.kind,
            "text": form.text,
            "cpu_s": lane.cpu_s,
            "wall_s": self._bounds.wall_s,
            "bytes": self._bounds.bytes,
        }
        async with self._lanes[lane]:
            ours, theirs = socket.socketpair()
            ours.settimeout(self._bounds.wall_s + _GRACE_S)
            given_up = threading.Event()
            try:
                return await anyio.to_thread.run_sync(
                    partial(self._ask, ours, theirs, order, given_up), abandon_on_cancel=True
                )
            finally:
                given_up.set()
                with suppress(OSError):  # the thread ends, and what works for it
                    ours.shutdown(socket.SHUT_RDWR)

    # What follows runs in threads of its own.

    def _ask(
        self,
        ours: socket.socket,
        theirs: socket.socket,
        order: dict[str, Any],
        given_up: threading.Event,
    ) -> dict[str, Any]:
        """Raises Overloaded when there is no answer: then the next order finds another server."""
        server: subprocess.Popen[bytes] | None = None
        try:
            with ours, theirs:
                server, control = self._running_server()
                socket.send_fds(control, [b"f"], [theirs.fileno()])
                theirs.close()
                ours.sendall(json.dumps(order).encode() + b"\n")
                answer = json.loads(_read(ours))
                assert isinstance(answer, dict)
                return answer
        except (OSError, ValueError) as error:
            if given_up.is_set():
                return {}
            self.counts["lost"] += 1
            log.error("the server of forms does not answer: %s", error or type(error).__name__)
            with self._starting:
                if server is not None and server is self._server:
                    self._end_server()
            raise Overloaded(
                "response_format could not be compiled, as the compiler does not answer; ask again"
            ) from None

    def _running_server(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        with self._starting:
            if self._server is not None and self._server.poll() is not None:
                log.error("the server of forms had ended with %d", self._server.returncode)
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
            ours.settimeout(_START_S)
            if ours.recv(1) != READY:
                raise OSError("it ended while it started")
            unless_it_starts.pop_all()
        return server, ours

    def _end_server(self) -> None:
        server, control, self._server, self._control = self._server, self._control, None, None
        if control is not None:
            control.close()
        if server is not None:
            try:
                server.wait(_END_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _environment() -> dict[str, str]:
    """Ours without settings: the URL of Redis may hold a password, and the library reads texts of
    strangers. More arenas would count as memory of a form that it never uses.
    """
    ours = {
        name: value for name, value in os.environ.items() if not name.upper().startswith("GLM4V_")
    }
    return ours | {"MALLOC_ARENA_MAX": "1"}


def _read(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    parts = []
    while part := connection.recv(_MAX_ANSWER):
        parts.append(part)
    return b"".join(parts)
