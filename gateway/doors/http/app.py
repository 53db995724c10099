"""The application: health, and the router of each format."""

from collections.abc import Callable

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from gateway.doors.http import generate, mindie, openai, page, triton
from gateway.doors.http import health as health_routes
from gateway.doors.http.dialect import Dialect
from gateway.doors.http.errors import Problem, error_response, problem_of
from gateway.facade import Gateway
from glm4v import __version__
from glm4v.errors import Unauthenticated
from glm4v.process.health import Health
from glm4v.telemetry.metrics import Registry

FORMATS: tuple[Callable[[Gateway], APIRouter], ...] = (
    openai.make_router,
    mindie.make_router,
    generate.make_router,
)


def make_app(
    health: Health,
    *,
    gateway: Gateway,
    metrics: Registry,
    dialect: Dialect = Dialect.ORIGINAL,
) -> FastAPI:
    """All formats over one gateway; `/openapi.json` describes them.

    `dialect` is that of requests that name none.
    """
    app = FastAPI(
        title="glm4v-serve",
        description="GLM-4V over HTTP",
        version=__version__,
        docs_url=None,  # its page would load scripts of others
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            HTTPException: _no_route,
            Unauthenticated: _refused,
            Exception: _bug,
        },
    )
    app.state.dialect = dialect
    app.include_router(health_routes.make_router(health, metrics))
    app.include_router(page.make_router(gateway))
    for make_router in FORMATS:
        app.include_router(make_router(gateway))
    app.include_router(triton.make_router(gateway, health))
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    """The answer where no route is: an unknown path, or another method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    methods = ", ".join(_methods(request))
    known = f"{methods} is" if methods else "/openapi.json lists what is"
    problem = Problem(status, f"{request.method} {request.url.path} is not served; {known}")
    response = error_response(problem, openai.ERRORS)
    if methods:
        response.headers["allow"] = methods
    return response


def _methods(request: Request) -> list[str]:
    """What may be done at a path, as the document at `/openapi.json` has it."""
    app: FastAPI = request.app
    found: set[str] = set()
    for path, operations in app.openapi()["paths"].items():
        if compile_path(path)[0].match(request.url.path):
            found.update(operation.upper() for operation in operations)
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


async def _refused(request: Request, error: Exception) -> Response:
    """The answer for metrics without a key."""
    return error_response(problem_of(error), openai.ERRORS)


async def _bug(request: Request, error: Exception) -> Response:
    """The answer where something outside of a format's routes fails."""
    return error_response(problem_of(error), openai.ERRORS)
