"""An HTTP server as a listener of a process."""

from collections.abc import Callable

from starlette.types import ASGIApp

from gateway.doors.http.calls import CallMiddleware, Calls
from glm4v.process.authentication_interceptor import Authenticate, anonymous
from glm4v.process.call_limits import CallLimits
from glm4v.process.environment import variable_of
from glm4v.process.health import Health
from glm4v.process.http_server import HttpServer
from glm4v.process.tls import TlsFiles

MakeApp = Callable[[Health], ASGIApp]


class HttpListener:
    """Serves an application on the address of the setting `http_listen`, with HTTP/1.1.

    Args:
        address: HOST:PORT or unix:/PATH.
        make_app: Makes the application when the process starts.
        limits: Of all requests but health checks.
        tls: Files of the server's certificate; None serves without TLS.
        authenticate: Names the callers of all requests but health checks.
    """

    def __init__(
        self,
        address: str,
        make_app: MakeApp,
        limits: CallLimits,
        *,
        tls: TlsFiles | None = None,
        authenticate: Authenticate = anonymous,
    ) -> None:
        self._address = address
        self._make_app = make_app
        self._tls = tls
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
        app = CallMiddleware(self._make_app(health), self._calls)
        self._server = HttpServer(app, self._address, variable_of("http_listen"), tls=self._tls)
        await self._server.start()

    async def refuse(self) -> None:
        """See Listener: requests get 503 and `Connection: close`."""
        self._calls.refuse()

    async def stop(self, grace_s: float) -> None:
        """See Listener."""
        await self._server.stop(grace_s)
