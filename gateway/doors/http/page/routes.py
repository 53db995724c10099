"""The files of the page, and what it reads beside OpenAI's API: workers, and a request's phases."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.openai.errors import ERRORS
from gateway.doors.http.route import add_read_route, route_class
from gateway.doors.http.terms import Terms
from gateway.facade import Gateway

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "answer.js": "text/javascript; charset=utf-8",
    "image.js": "text/javascript; charset=utf-8",
    "workers.js": "text/javascript; charset=utf-8",
}
# Nothing of others, nothing inline; `blob:` is the preview of an image.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def make_router(gateway: Gateway) -> APIRouter:
    """The page is for everybody; what it reads needs a key where the formats do."""
    router = APIRouter(tags=["page"])
    for name in _TYPES:
        add_read_route(router, "/" if name == "index.html" else f"/page/{name}", _file(name))
    watching = APIRouter(prefix="/page", route_class=route_class(ERRORS), tags=["page"])

    async def workers(terms: Terms) -> Response:
        """Queues and workers."""
        return _json(await gateway.watch_workers(terms.caller))

    async def request(request_id: str, terms: Terms) -> Response:
        """The phases of a request so far."""
        return _json(await gateway.watch_request(terms.caller, request_id))

    add_read_route(watching, "/workers", workers)
    add_read_route(watching, "/requests/{request_id}", request)
    router.include_router(watching)
    return router


def _file(name: str) -> Callable[[], Awaitable[Response]]:
    content = (files(__package__) / name).read_bytes()

    async def read() -> Response:
        return Response(content, media_type=_TYPES[name], headers=_HEADERS)

    return read


def _json(value: dict[str, object]) -> Response:
    return Response(json_bytes(value), media_type="application/json")
