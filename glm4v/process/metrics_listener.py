"""A listener for Prometheus: the metrics of a process over HTTP, apart from all calls."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from glm4v.process.environment import variable_of
from glm4v.process.health import Health
from glm4v.process.http_server import HttpServer
from glm4v.telemetry.metrics import CONTENT_TYPE, Registry

_PATH = "/metrics"


class MetricsListener:
    """Serves `/metrics` on the address of the setting `metrics_listen`, without TLS and keys."""

    def __init__(self, address: str, metrics: Registry) -> None:
        self._metrics = metrics
        self._server = HttpServer(self._answer, address, variable_of("metrics_listen"))

    async def start(self, health: Health) -> None:
        """See Listener."""
        await self._server.start()

    async def refuse(self) -> None:
        """Metrics are served until the process ends."""

    async def stop(self, grace_s: float) -> None:
        """See Listener."""
        await self._server.stop(grace_s)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if request.url.path != _PATH:
            response = Response(f"metrics are at {_PATH}\n", status_code=404)
        elif request.method not in ("GET", "HEAD"):
            response = Response(status_code=405, headers={"Allow": "GET, HEAD"})
        else:
            response = Response(await self._metrics.text(), media_type=CONTENT_TYPE)
        await response(scope, receive, send)
