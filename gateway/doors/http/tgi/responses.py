"""Responses of TGI's format."""

from starlette.responses import Response

from gateway.doors.http.answer import Answer, AnswerResponse
from gateway.doors.http.dialect import Dialect
from gateway.doors.http.errors import ErrorForm
from gateway.doors.http.fields import Fields
from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.mindie.errors import MINDIE_ERRORS
from gateway.doors.http.running import Running, start
from gateway.doors.http.sse import EventStreamFraming
from gateway.doors.http.step_encoder import StepEncoder, stop_ids
from gateway.doors.http.steps import Steps
from gateway.doors.http.stream import StreamResponse
from gateway.doors.http.terms import CallTerms
from gateway.doors.http.tgi.answers import answer_body, answer_headers
from gateway.doors.http.tgi.errors import TGI_ERRORS
from gateway.doors.http.tgi.frames import MindieTgiFrames, TgiFrames
from gateway.doors.http.tgi.request import AnswerOptions, read_tgi
from gateway.doors.http.tgi.tokens import TokenWriter
from gateway.facade import Gateway

ERRORS: dict[Dialect, ErrorForm] = {Dialect.ORIGINAL: TGI_ERRORS, Dialect.MINDIE: MINDIE_ERRORS}
_FRAMINGS = {
    Dialect.ORIGINAL: EventStreamFraming(space=False),
    Dialect.MINDIE: EventStreamFraming(),
}


async def respond(
    gateway: Gateway,
    body: Fields,
    dialect: Dialect,
    terms: CallTerms,
    *,
    is_stream: bool,
    in_list: bool = False,
) -> Response:
    """The response to a body. `in_list` wraps a whole answer. Raises as `start`."""
    request, wanted = read_tgi(body, dialect, is_stream=is_stream)
    running = await start(gateway, request, terms, is_stream=is_stream, from_first_token=True)
    tokens = TokenWriter(gateway)
    if not is_stream:
        return _answer(running, wanted, tokens, in_list=in_list)
    # An answer with stop strings or a format may end at any token.
    may_end_anywhere = bool(request.stop) or request.HasField("response_format")
    steps = Steps(await stop_ids(running, request), hold=may_end_anywhere)
    return _stream(running, wanted, tokens, steps)


def _answer(
    running: Running, wanted: AnswerOptions, tokens: TokenWriter, *, in_list: bool
) -> AnswerResponse:
    def body(answer: Answer) -> bytes:
        written = answer_body(answer, wanted, tokens)
        return json_bytes([written] if in_list else written)

    def headers(answer: Answer) -> dict[str, str]:
        return answer_headers(answer, wanted)

    return AnswerResponse(running, body, ERRORS[wanted.dialect], headers)


def _stream(
    running: Running, wanted: AnswerOptions, tokens: TokenWriter, steps: Steps
) -> StreamResponse:
    seed = running.accepted.seed
    frames: TgiFrames | MindieTgiFrames
    if wanted.dialect is Dialect.MINDIE:
        frames = MindieTgiFrames(seed=seed, with_details=wanted.with_details)
    else:
        frames = TgiFrames(
            tokens,
            seed=seed if wanted.is_sampled else None,
            prompt=wanted.prompt,
            alternatives=wanted.alternatives,
        )
    encoder = StepEncoder(running, steps, frames.write)
    return StreamResponse(running, encoder, _FRAMINGS[wanted.dialect], ERRORS[wanted.dialect])
