"""Health and metrics for orchestrators and tools: no limits, no errors of a format.

Health is for everybody; metrics need a key where the formats do.
"""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.doors.http.route import add_read_route
from glm4v.process.health import Health
from glm4v.telemetry.metrics import CONTENT_TYPE, Registry

_UNHEALTHY = '{"error":"unhealthy","error_type":"healthcheck"}'  # as TGI says it


def make_router(health: Health, metrics: Registry) -> APIRouter:
    """`/health` and `/ready` answer 200 while the process can serve, else 503; `/live` always 200.

    `/metrics` is in the text format of Prometheus.
    """
    router = APIRouter(tags=["health"])

    async def ready() -> Response:
        """Whether requests are taken."""
        if health.is_serving:
            return Response(status_code=200)
        return Response(_UNHEALTHY, status_code=503, media_type="application/json")

    async def live() -> Response:
        """That the process answers."""
        return Response(status_code=200)

    async def metrics_text(request: Request) -> Response:
        """The metrics of this gateway."""
        request.state.call.authenticate()
        return Response(await metrics.text(), media_type=CONTENT_TYPE)

    for path in ("/health", "/ready"):
        add_read_route(router, path, ready)
    add_read_route(router, "/live", live)
    add_read_route(router, "/metrics", metrics_text)
    return router
