"""The routes that TGI's and vLLM's formats share, with and without MindIE's dialect."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from gateway.doors.http import tgi, vllm
from gateway.doors.http.dialect import Dialect, dialect_of
from gateway.doors.http.fields import Fields
from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.object_body import described_by, read_object
from gateway.doors.http.route import add_read_route, route_class
from gateway.doors.http.terms import Terms
from gateway.doors.http.tgi.info import info
from gateway.facade import Gateway
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

# MindIE's whole text, which is JSON in JSON.
_NO_PROMPT_IN_MINDIE = (
    '{"Error": "`inputs` or `prompt` must be necessary and data type must be string. Additionally, '
    'the request body must be valid json", "error_type": "validation"}'
)
_NO_PROMPT = "the body has neither inputs (TGI) nor prompt (vLLM); send one of them"
_PICTURE = {"type": "image_url", "image_url": "data:image/png;base64,..."}
_PARTS = [{"type": "text", "text": "What is this?"}, _PICTURE]
_TGI = {"inputs": _PARTS, "parameters": {"max_new_tokens": 64, "details": True}}
_VLLM = {"prompt": _PARTS, "max_tokens": 64, "stream": False}


async def _read_dialect(request: Request) -> Dialect:
    """A dependency, which also decides the form of errors. Raises InvalidRequest."""
    dialect = dialect_of(request, request.app.state.dialect)
    request.state.errors = tgi.ERRORS[dialect]
    return dialect


_Dialect = Annotated[Dialect, Depends(_read_dialect)]


def make_router(gateway: Gateway) -> APIRouter:
    """`/generate`, which a body with `prompt` makes vLLM's and one with `inputs` TGI's; TGI's `/`,
    `/generate_stream` and `/info`.
    """
    routes = GenerateRoutes(gateway)
    router = APIRouter(
        route_class=route_class(tgi.ERRORS[Dialect.ORIGINAL]),
        tags=["TGI and vLLM"],
        dependencies=[Depends(_read_dialect)],
    )

    def post(path: str, endpoint: Any, *examples: dict[str, Any]) -> None:
        router.add_api_route(
            path, endpoint, methods=["POST"], openapi_extra=described_by(*examples)
        )

    post("/generate", routes.generate, _TGI, _VLLM)
    post("/generate_stream", routes.generate_stream, _TGI)
    post("/", routes.root, _TGI | {"stream": False})
    add_read_route(router, "/info", routes.info)
    return router


class GenerateRoutes:
    """The endpoints, over one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def generate(self, request: Request, dialect: _Dialect, terms: Terms) -> Response:
        """vLLM's format for a body with `prompt`, TGI's for one with `inputs`."""
        body = await _read(request, dialect)
        if "prompt" in body:
            request.state.errors = vllm.ERRORS[dialect]
            return await vllm.respond(self._gateway, body, dialect, terms)
        if "inputs" not in body:
            raise InvalidRequest(_no_prompt(dialect))
        return await tgi.respond(self._gateway, body, dialect, terms, is_stream=False)

    async def generate_stream(self, request: Request, dialect: _Dialect, terms: Terms) -> Response:
        """TGI's format, as a stream."""
        body = await read_object(request)
        return await tgi.respond(self._gateway, body, dialect, terms, is_stream=True)

    async def root(self, request: Request, dialect: _Dialect, terms: Terms) -> Response:
        """TGI's format: a list of one answer, or with `stream` a stream."""
        body = await read_object(request)
        is_stream = bool(body.boolean("stream"))
        return await tgi.respond(
            self._gateway, body, dialect, terms, is_stream=is_stream, in_list=True
        )

    async def info(self, dialect: _Dialect, terms: Terms) -> Response:
        """The model and its limits."""
        model = await self._gateway.model(terms.caller, api.GetModelRequest())
        return Response(json_bytes(info(model, dialect)), media_type="application/json")


async def _read(request: Request, dialect: Dialect) -> Fields:
    """A body; MindIE says the same of one that is no JSON as of one without a prompt."""
    try:
        return await read_object(request)
    except InvalidRequest:
        if dialect is Dialect.MINDIE:
            raise InvalidRequest(_NO_PROMPT_IN_MINDIE) from None
        raise


def _no_prompt(dialect: Dialect) -> str:
    return _NO_PROMPT_IN_MINDIE if dialect is Dialect.MINDIE else _NO_PROMPT
