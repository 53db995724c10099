"""An HTTP server as a listener of a process: uvicorn in the process's own event loop."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from gateway.doors.http.calls import CallMiddleware, Calls
from gateway.doors.http.protocol import BoundedProtocol, connection_limits
from glm4v.process.authentication_interceptor import Authenticate, anonymous
from glm4v.process.call_limits import CallLimits
from glm4v.process.health import Health
from glm4v.process.listen_address import listening_sockets
from glm4v.process.server_options import raise_file_limit
from glm4v.process.settings import variable_of

_KEEP_ALIVE_S = 75  # longer than proxies keep idle connections, or they would use a closed one

MakeApp = Callable[[Health], ASGIApp]


class HttpListener:
    """Serves an application on the address of the setting `http_listen`, with HTTP/1.1.

    Args:
        address: HOST:PORT or unix:/PATH.
        make_app: Makes the application when the process starts.
        limits: Of all requests but health checks.
        authenticate: Names the callers of all requests but health checks.
    """

    def __init__(
        self,
        address: str,
        make_app: MakeApp,
        limits: CallLimits,
        *,
        authenticate: Authenticate = anonymous,
    ) -> None:
        self._address = address
        self._make_app = make_app
        self._calls = Calls(limits, authenticate)

    @property
    def ended_calls(self) -> dict[tuple[str, str], int]:
        """Requests that have ended, by route and status."""
        return dict(self._calls.ended)

    @property
    def calls(self) -> int:
        """Requests in progress, health checks left out."""
        return self._calls.count.total

    async def start(self, health: Health) -> None:
        """See Listener."""
        raise_file_limit()
        sockets = listening_sockets(self._address, variable_of("http_listen"))
        config = uvicorn.Config(
            CallMiddleware(self._make_app(health), self._calls),
            http=partial(BoundedProtocol, limits=connection_limits()),  # type: ignore[arg-type]
            loop="none",
            ws="none",
            interface="asgi3",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        # It warns of every malformed request; errors of ours are logged where they are caught.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets))
        started = asyncio.create_task(self._server.is_listening.wait())
        await asyncio.wait({started, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._serving.done():
            self._serving.result()

    async def refuse(self) -> None:
        """See Listener: requests get 503 and `Connection: close`."""
        self._calls.refuse()

    async def stop(self, grace_s: float) -> None:
        """See Listener."""
        if not self._server.should_exit:
            self._server.config.timeout_graceful_shutdown = grace_s  # type: ignore[assignment]
            self._server.should_exit = True
        await asyncio.wait([self._serving])
        self._server.abort()


class _Server(uvicorn.Server):
    """A server that leaves signals to the process, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        self.is_listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn."""
        yield

    def abort(self) -> None:
        """Close the connections whose requests did not end."""
        for connection in list[Any](self.server_state.connections):
            connection.transport.abort()
