"""The routes of MindIE's own format."""

from dataclasses import replace

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.doors.http.answer import Answer, AnswerResponse
from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.mindie.errors import MINDIE_ERRORS
from gateway.doors.http.mindie.frames import InferFrames, answer_body
from gateway.doors.http.mindie.request import read_infer
from gateway.doors.http.object_body import described_by, read_object
from gateway.doors.http.route import route_class
from gateway.doors.http.running import Running, start
from gateway.doors.http.sse import EventStreamFraming
from gateway.doors.http.step_encoder import StepEncoder, stop_ids
from gateway.doors.http.steps import Steps
from gateway.doors.http.stream import StreamResponse
from gateway.doors.http.terms import Terms
from gateway.facade import Gateway

_EXAMPLE = {
    "inputs": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": "data:image/png;base64,..."},
    ],
    "stream": False,
    "parameters": {"max_new_tokens": 64, "details": True},
}


def make_router(gateway: Gateway) -> APIRouter:
    """`/infer` and `/infer_token`, which take the same bodies."""
    router = APIRouter(tags=["MindIE"], route_class=route_class(MINDIE_ERRORS))

    async def infer(request: Request, terms: Terms) -> Response:
        """An answer to `inputs` or `input_id`."""
        asked = read_infer(await read_object(request))
        if asked.time_limit_s is not None:
            terms = replace(terms, time_limit_s=asked.time_limit_s)
        running = await start(
            gateway, asked.request, terms, is_stream=asked.is_stream, from_first_token=True
        )
        if not asked.is_stream:
            return _answer(running, with_details=asked.with_details)
        steps = Steps(await stop_ids(running, asked.request), hold=False)
        return _stream(running, steps, with_details=asked.with_details)

    for path in ("/infer", "/infer_token"):
        router.add_api_route(path, infer, methods=["POST"], openapi_extra=described_by(_EXAMPLE))
    return router


def _answer(running: Running, *, with_details: bool) -> AnswerResponse:
    seed = running.accepted.seed

    def body(answer: Answer) -> bytes:
        choice = answer.choices[0]
        return json_bytes(answer_body(choice, seed=seed, with_details=with_details))

    return AnswerResponse(running, body, MINDIE_ERRORS)


def _stream(running: Running, steps: Steps, *, with_details: bool) -> StreamResponse:
    frames = InferFrames(seed=running.accepted.seed, with_details=with_details)
    encoder = StepEncoder(running, steps, frames.write)
    return StreamResponse(running, encoder, EventStreamFraming(), MINDIE_ERRORS)
