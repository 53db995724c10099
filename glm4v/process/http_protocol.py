"""Connections of HTTP clients: how many there may be, and how slow.

The server has timeouts for connections between requests alone. Here are those for connections that
send no whole head of a request, those whose client does not read, and those that go on sending a
body which was answered before its end.
"""

import asyncio
import socket
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from glm4v.process.server_options import max_connections

CERTIFICATE = "client_certificate"  # in the state of a connection whose client has shown one
MAX_HEAD_BYTES = 64 * 2**10
# A client that has vanished: as long as gRPC's keepalive gives it.
_IDLE_S, _INTERVAL_S, _PROBES = 30, 10, 3


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of connections.

    Attributes:
        max_connections: Further ones are closed at once.
        head_timeout_s: From the first byte that is awaited to the end of a request's headers.
        write_timeout_s: How long a client may not read while something waits for it.
        late_body_s: How long a client may go on sending a body after the whole answer to it. It has
            this long to read the answer: closing at once would reset the connection.
    """

    max_connections: int
    head_timeout_s: float = 10.0
    write_timeout_s: float = 60.0
    late_body_s: float = 2.0


class BoundedProtocol(HttpToolsProtocol):
    """A connection within the limits."""

    def __init__(self, *args: Any, limits: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._head_bytes = 0
        self._in_head = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_body = False
        self._late_body_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            transport.abort()
            return
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family != socket.AF_UNIX:
            _watch(opened)
        if (secured := transport.get_extra_info("ssl_object")) is not None:
            self.app_state = {**self.app_state, CERTIFICATE: secured.getpeercert(binary_form=True)}
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        _cancel(self._head_timer)
        _cancel(self._write_timer)
        _cancel(self._late_body_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """The first byte of a request: of a connection, or behind another one."""
        if not self._in_head:
            self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head of a request."""
        self._in_head, self._in_body = False, True
        _cancel(self._head_timer)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._in_body = False
        _cancel(self._late_body_timer)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The end of an answer, which may come before that of its request."""
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete:
            self._late_body_timer = self.loop.call_later(
                self._limits.late_body_s, self.transport.abort
            )

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._limits.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        _cancel(self._write_timer)
        super().resume_writing()

    def _await_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        _cancel(self._head_timer)
        self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self.transport.abort)


def connection_limits() -> ConnectionLimits:
    """The limits of a listener; connections are open files."""
    return ConnectionLimits(max_connections())


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _watch(opened: socket.socket) -> None:
    """Let the system find out that a client has vanished."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL_S)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
