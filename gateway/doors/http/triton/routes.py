"""The routes under `/v2`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.doors.http.answer import AnswerResponse
from gateway.doors.http.dialect import Dialect, dialect_of
from gateway.doors.http.fields import Fields
from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.object_body import described_by
from gateway.doors.http.route import add_read_route, route_class
from gateway.doors.http.running import Running, start
from gateway.doors.http.sse import EventStreamFraming
from gateway.doors.http.step_encoder import StepEncoder, stop_ids
from gateway.doors.http.steps import Steps
from gateway.doors.http.stream import StreamResponse
from gateway.doors.http.terms import CallTerms, Terms
from gateway.doors.http.triton import metadata, mindie
from gateway.doors.http.triton.body import read_object_and_rest
from gateway.doors.http.triton.errors import ERRORS
from gateway.doors.http.triton.generate import GenerateFrames, answer_body, read_generate
from gateway.doors.http.triton.infer import InferRequest
from gateway.doors.http.triton.open_requests import OpenRequests
from gateway.doors.kserve.inference import Inference
from gateway.doors.kserve.model import check_model
from gateway.doors.kserve.pieces import check_one_choice
from gateway.facade import Gateway
from glm4v.errors import InvalidRequest, UnknownReference
from glm4v.process.health import Health
from glm4v.v1 import inference_pb2 as api

_MODEL = "/models/{name}"
_GENERATE = {"text_input": "What is this?", "image": "data:image/png;base64,...", "max_tokens": 64}
_INFER = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["Hello"]}]}
_ORIGINAL_SSE = EventStreamFraming()
_MINDIE_SSE = EventStreamFraming(space=False)


async def _read_dialect(request: Request) -> Dialect:
    """A dependency, which also decides the form of errors. Raises InvalidRequest."""
    dialect = dialect_of(request, request.app.state.dialect)
    request.state.errors = ERRORS[dialect]
    return dialect


_Dialect = Annotated[Dialect, Depends(_read_dialect)]


def make_router(gateway: Gateway, health: Health) -> APIRouter:
    """All paths, those of a model with and without `/versions/1`."""
    about, answers = _About(gateway, health), _Answers(gateway)
    errors = ERRORS[Dialect.ORIGINAL]
    router = APIRouter(
        prefix="/v2",
        route_class=route_class(errors),
        tags=["Triton"],
        dependencies=[Depends(_read_dialect)],
    )
    add_read_route(router, "", about.server)
    for model in (_MODEL, _MODEL + "/versions/{version}"):
        add_read_route(router, model, about.metadata)
        add_read_route(router, model + "/config", about.config)
        add_read_route(router, model + "/ready", about.model_ready)
        _post(router, model + "/generate", answers.generate, _GENERATE)
        _post(router, model + "/generate_stream", answers.generate_stream, _GENERATE)
        _post(router, model + "/infer", answers.infer, _INFER)
        _post(router, model + "/stopInfer", answers.stop, {"id": "1"})
    whole = APIRouter(tags=["Triton"])
    add_read_route(whole, "/v2/health/live", about.live)  # without limits and keys
    add_read_route(whole, "/v2/health/ready", about.ready)
    whole.include_router(router)
    return whole


def _post(
    router: APIRouter, path: str, endpoint: Callable[..., Any], example: dict[str, Any]
) -> None:
    router.add_api_route(path, endpoint, methods=["POST"], openapi_extra=described_by(example))


class _About:
    """What reads, over one gateway."""

    def __init__(self, gateway: Gateway, health: Health) -> None:
        self._gateway = gateway
        self._health = health

    async def server(self, dialect: _Dialect, terms: Terms) -> Response:
        """The server."""
        model = await self._gateway.model(terms.caller, api.GetModelRequest())
        return _json(metadata.server(model, dialect))

    async def live(self) -> Response:
        """That the process answers. tritonclient takes no other status but 200."""
        return Response(status_code=200)

    async def ready(self) -> Response:
        """Whether requests are taken."""
        return Response(status_code=200 if self._health.is_serving else 503)

    async def model_ready(
        self, name: str, dialect: _Dialect, terms: Terms, version: str = ""
    ) -> Response:
        """Whether the model takes requests."""
        await _model(self._gateway, terms, name, version, dialect)
        return await self.ready()

    async def metadata(
        self, name: str, dialect: _Dialect, terms: Terms, version: str = ""
    ) -> Response:
        """The tensors of the model."""
        model = await _model(self._gateway, terms, name, version, dialect)
        return _json(metadata.metadata(model, dialect))

    async def config(
        self, name: str, dialect: _Dialect, terms: Terms, version: str = ""
    ) -> Response:
        """The configuration of the model."""
        model = await _model(self._gateway, terms, name, version, dialect)
        return _json(metadata.config(model, dialect))


class _Answers:
    """What answers, over one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._open = OpenRequests()

    async def generate(
        self, request: Request, name: str, dialect: _Dialect, terms: Terms, version: str = ""
    ) -> Response:
        """A whole answer."""
        model = await _model(self._gateway, terms, name, version, dialect)
        body, _ = await read_object_and_rest(request)
        if dialect is Dialect.MINDIE:
            asked = mindie.read_text(Fields(body))
            running = await self._start_mindie(asked, terms, is_stream=False)
            return self._answer(
                asked.id, running, dialect, lambda it: (mindie.text_body(asked, model.name, it), {})
            )
        inference = read_generate(body)
        running = await self._start(inference, terms, is_stream=False)
        return self._answer(
            inference.id, running, dialect, lambda it: (answer_body(inference, model.name, it), {})
        )

    async def generate_stream(
        self, request: Request, name: str, dialect: _Dialect, terms: Terms, version: str = ""
    ) -> Response:
        """An answer as a stream of server-sent events."""
        model = await _model(self._gateway, terms, name, version, dialect)
        body, _ = await read_object_and_rest(request)
        if dialect is Dialect.MINDIE:
            asked = mindie.read_text(Fields(body))
            running = await self._start_mindie(asked, terms, is_stream=True)
            steps = Steps(await stop_ids(running, asked.request), hold=False)
            encoder = StepEncoder(running, steps, mindie.MindieFrames(asked, model.name).write)
            stream = StreamResponse(running, encoder, _MINDIE_SSE, ERRORS[dialect])
            return _Listed(self._open, asked.id, running, stream)
        inference = read_generate(body)
        check_one_choice(inference)
        running = await self._start(inference, terms, is_stream=True)
        frames = GenerateFrames(inference, model.name)
        stream = StreamResponse(running, frames, _ORIGINAL_SSE, ERRORS[dialect])
        return _Listed(self._open, inference.id, running, stream)

    async def infer(
        self, request: Request, name: str, dialect: _Dialect, terms: Terms, version: str = ""
    ) -> Response:
        """A whole answer to tensors; in MindIE's dialect to token ids."""
        model = await _model(self._gateway, terms, name, version, dialect)
        body, rest = await read_object_and_rest(request)
        if dialect is Dialect.MINDIE:
            asked = mindie.read_tokens(Fields(body))
            running = await self._start_mindie(asked, terms, is_stream=False)
            return self._answer(
                asked.id, running, dialect, lambda it: (mindie.tokens_body(asked, it), {})
            )
        infer = InferRequest(body, rest)
        running = await self._start(infer.inference, terms, is_stream=False)
        return self._answer(
            infer.inference.id, running, dialect, lambda it: infer.body(model.name, it)
        )

    async def stop(
        self, request: Request, name: str, dialect: _Dialect, terms: Terms, version: str = ""
    ) -> Response:
        """End the running requests with an id; else the one that the gateway knows by it."""
        await _model(self._gateway, terms, name, version, dialect)
        body, _ = await read_object_and_rest(request)
        request_id = Fields(body).string("id")
        if not request_id:
            raise InvalidRequest("id is missing; send that of the request to stop")
        found = self._open.find(terms.caller.owner, request_id) or [request_id]
        for each in found:
            await self._gateway.cancel(terms.caller, api.CancelRequest(request_id=each))
        return _json({"id": request_id})

    async def _start(self, inference: Inference, terms: CallTerms, *, is_stream: bool) -> Running:
        if inference.is_stop:
            raise InvalidRequest("the input 'stop' is for gRPC streams; POST to stopInfer")
        if inference.time_limit_s is not None:
            terms = replace(terms, time_limit_s=inference.time_limit_s)
        return await start(
            self._gateway,
            inference.request,
            terms,
            is_stream=is_stream,
            from_first_token=not inference.in_pieces,
        )

    async def _start_mindie(
        self, asked: mindie.MindieRequest, terms: CallTerms, *, is_stream: bool
    ) -> Running:
        if asked.time_limit_s is not None:
            terms = replace(terms, time_limit_s=asked.time_limit_s)
        return await start(
            self._gateway, asked.request, terms, is_stream=is_stream, from_first_token=True
        )

    def _answer(
        self, request_id: str, running: Running, dialect: Dialect, write: Callable[..., Any]
    ) -> Response:
        """A whole answer, whose body and headers `write` makes."""
        response = AnswerResponse(
            running, lambda it: write(it)[0], ERRORS[dialect], lambda it: write(it)[1]
        )
        return _Listed(self._open, request_id, running, response)


class _Listed(Response):
    """A response whose request can be stopped by its id while it is sent."""

    def __init__(
        self, opened: OpenRequests, request_id: str, running: Running, response: Response
    ) -> None:
        self._listed = opened.listed(request_id, running)
        self._response = response
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        with self._listed:
            await self._response(scope, receive, send)


async def _model(
    gateway: Gateway, terms: CallTerms, name: str, version: str, dialect: Dialect
) -> api.GetModelResponse:
    model = await gateway.model(terms.caller, api.GetModelRequest())
    if dialect is Dialect.MINDIE and name != model.name:
        raise UnknownReference(f"Model {name} not found.")
    check_model(model, name, version)
    return model


def _json(value: Any) -> Response:
    return Response(json_bytes(value), media_type="application/json")
