"""An HTTP server in the process's own event loop: uvicorn, without its signal handlers."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from glm4v.process.http_protocol import BoundedProtocol, connection_limits
from glm4v.process.listen_address import listening_sockets
from glm4v.process.server_options import raise_file_limit
from glm4v.process.tls import ServerContext, TlsFiles

_KEEP_ALIVE_S = 75  # longer than proxies keep idle connections, or they would use a closed one


class HttpServer:
    """Serves an application with HTTP/1.1.

    Args:
        app: The application.
        address: HOST:PORT or unix:/PATH.
        variable: The environment variable with the address, for error messages.
        tls: Files of the server's certificate; None serves without TLS.
    """

    def __init__(
        self, app: ASGIApp, address: str, variable: str, *, tls: TlsFiles | None = None
    ) -> None:
        self._address = address
        self._variable = variable
        config = uvicorn.Config(
            app,
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
            ssl_context_factory=_context_factory(tls),
        )
        self._server = _Server(config)

    async def start(self) -> None:
        """Serve from now on. Raises ConfigurationError and Unavailable where it cannot listen."""
        raise_file_limit()
        sockets = listening_sockets(self._address, self._variable)
        # It warns of every malformed request; errors of ours are logged where they are caught.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._serving = asyncio.create_task(self._server.serve(sockets))
        started = asyncio.create_task(self._server.is_listening.wait())
        await asyncio.wait({started, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._serving.done():
            self._serving.result()

    async def stop(self, grace_s: float) -> None:
        """Stop listening; requests in progress may take another `grace_s` seconds."""
        if not self._server.should_exit:
            self._server.config.timeout_graceful_shutdown = grace_s  # type: ignore[assignment]
            self._server.should_exit = True
        await asyncio.wait([self._serving])
        self._server.abort()


def _context_factory(tls: TlsFiles | None) -> Any:
    """As uvicorn wants it; None serves without TLS."""
    return None if tls is None else lambda config, default: ServerContext(tls)


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
