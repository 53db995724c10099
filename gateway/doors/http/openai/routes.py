"""The routes of OpenAI's API."""

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.doors.http.answer import AnswerResponse
from gateway.doors.http.body import described, read_body
from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.model_name import check_model
from gateway.doors.http.openai.body import ChatBody
from gateway.doors.http.openai.completion import Completion
from gateway.doors.http.openai.errors import ERRORS
from gateway.doors.http.openai.frames import ChunkEncoder
from gateway.doors.http.openai.request import ignored_fields, to_request
from gateway.doors.http.route import add_read_route, route_class
from gateway.doors.http.running import start
from gateway.doors.http.sse import EventStreamFraming
from gateway.doors.http.stream import StreamResponse
from gateway.doors.http.terms import CallTerms, Terms
from gateway.facade import Gateway
from glm4v.v1 import inference_pb2 as api

_SSE = EventStreamFraming()


def make_router(gateway: Gateway) -> APIRouter:
    """The format's router."""
    openai = OpenAiApi(gateway)
    router = APIRouter(prefix="/v1", route_class=route_class(ERRORS), tags=["OpenAI"])
    router.add_api_route(
        "/chat/completions", openai.chat, methods=["POST"], openapi_extra=described(ChatBody)
    )
    add_read_route(router, "/models", openai.models)
    add_read_route(router, "/models/{name:path}", openai.model)
    return router


class OpenAiApi:
    """The endpoints, over one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._created = int(time.time())  # of the model, as clients want such a time

    async def chat(self, request: Request, terms: Terms) -> Any:
        """Answer a conversation, whole or as a stream of server-sent events."""
        body = await read_body(request, ChatBody)
        model = await self._model(terms)
        check_model(body.model, model)
        running = await start(self._gateway, to_request(body), terms, is_stream=bool(body.stream))
        completion = Completion(
            running.accepted,
            created=int(time.time()),
            model=model.name,
            fingerprint=model.fingerprint,
            with_stop_string=bool(body.include_stop_str_in_output),
            vocabulary=self._gateway if body.logprobs else None,
        )
        headers = ignored_fields(body)
        if not body.stream:
            return AnswerResponse(running, completion.body, ERRORS, lambda _: headers)
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        encoder = ChunkEncoder(completion, with_usage=bool(with_usage))
        return StreamResponse(running, encoder, _SSE, ERRORS, headers)

    async def models(self, terms: Terms) -> Response:
        """The model that is served."""
        listed = {"object": "list", "data": [self._entry(await self._model(terms))]}
        return Response(json_bytes(listed), media_type="application/json")

    async def model(self, name: str, terms: Terms) -> Response:
        """One model, by its name."""
        model = await self._model(terms)
        check_model(name, model)
        return Response(json_bytes(self._entry(model)), media_type="application/json")

    async def _model(self, terms: CallTerms) -> api.GetModelResponse:
        return await self._gateway.model(terms.caller, api.GetModelRequest())

    def _entry(self, model: api.GetModelResponse) -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "glm4v-serve",
            "root": model.name,
            "parent": None,
            "max_model_len": model.context_tokens,
        }
