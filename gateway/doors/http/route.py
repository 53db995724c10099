"""The routes of a format: limits before an endpoint, and errors in the format's own form."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from gateway.doors.http.calls import Call
from gateway.doors.http.errors import ErrorForm, error_response, problem_of

_Handle = Callable[[Request], Awaitable[Response]]


def route_class(errors: ErrorForm) -> type[APIRoute]:
    """The class of a format's routes, for `APIRouter(route_class=...)`.

    An endpoint that serves several formats sets `request.state.errors` to the form of the one that
    it was asked in.
    """

    class Route(APIRoute):
        def get_route_handler(self) -> Any:
            """See APIRoute."""
            handle = cast(_Handle, super().get_route_handler())

            async def handler(request: Request) -> Response:
                return await _handle(request, handle, errors)

            return handler

    return Route


def add_read_route(router: APIRouter, path: str, endpoint: Callable[..., Any]) -> None:
    """Add a route for GET, and for HEAD, which OpenAPI would list as another operation."""
    router.add_api_route(path, endpoint, methods=["GET"])
    router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)


async def _handle(request: Request, handle: _Handle, errors: ErrorForm) -> Response:
    """Run an endpoint. When it has returned, nothing keeps the body."""
    call: Call = request.state.call
    try:
        call.begin()
        return await handle(request)
    except Exception as error:
        form = getattr(request.state, "errors", errors)
        return error_response(problem_of(error), form)
    finally:
        call.handled()
