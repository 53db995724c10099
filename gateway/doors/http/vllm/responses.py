"""Responses of vLLM's format."""

from starlette.responses import Response

from gateway.doors.http.answer import Answer, AnswerResponse
from gateway.doors.http.dialect import Dialect
from gateway.doors.http.errors import ErrorForm
from gateway.doors.http.fields import Fields
from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.mindie.errors import MINDIE_ERRORS
from gateway.doors.http.openai.errors import ERRORS as OPENAI_ERRORS
from gateway.doors.http.running import start
from gateway.doors.http.stream import StreamResponse
from gateway.doors.http.terms import CallTerms
from gateway.doors.http.vllm.frames import (
    MINDIE_FRAMING,
    ORIGINAL_FRAMING,
    VllmEncoder,
    answer_body,
)
from gateway.doors.http.vllm.request import read_vllm
from gateway.facade import Gateway

ERRORS: dict[Dialect, ErrorForm] = {Dialect.ORIGINAL: OPENAI_ERRORS, Dialect.MINDIE: MINDIE_ERRORS}
_FRAMINGS = {Dialect.ORIGINAL: ORIGINAL_FRAMING, Dialect.MINDIE: MINDIE_FRAMING}


async def respond(gateway: Gateway, body: Fields, dialect: Dialect, terms: CallTerms) -> Response:
    """The response to a body. Raises as `start`."""
    request, wanted = read_vllm(body, dialect)
    running = await start(
        gateway, request, terms, is_stream=wanted.is_stream, from_first_token=True
    )
    if wanted.is_stream:
        encoder = VllmEncoder(
            running.accepted.n,
            echo=wanted.echo,
            is_cumulative=dialect is Dialect.ORIGINAL,
            with_stop=wanted.with_stop,
        )
        return StreamResponse(running, encoder, _FRAMINGS[dialect], ERRORS[dialect])

    def answer(whole: Answer) -> bytes:
        return json_bytes(answer_body(whole, wanted.echo, with_stop=wanted.with_stop))

    return AnswerResponse(running, answer, ERRORS[dialect])
