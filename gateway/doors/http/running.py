"""A request in progress, from its message to the events that a response sends."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import anyio

from gateway.doors.http.position import Position
from gateway.doors.http.terms import CallTerms
from gateway.facade import Gateway
from glm4v.errors import Glm4vError, InvalidRequest
from glm4v.v1 import inference_pb2 as api

_CANCEL_S = 5.0


class Events(Protocol):
    """What the facade returns."""

    async def __anext__(self) -> api.GenerationEvent:
        """The next event. Raises StopAsyncIteration, and the error that ended the request."""

    async def aclose(self) -> None:
        """Detach."""


@dataclass(slots=True)
class Running:
    """A request that was accepted, or resumed.

    Attributes:
        gateway: Runs it.
        terms: As it was called.
        events: What follows `accepted`.
        accepted: Its first event; `request_id` is for the header `X-Request-Id`.
        position: Where its client is; a response moves it.
        is_resumable: Whether the client can come back: it named the request or gets ids of events.
    """

    gateway: Gateway
    terms: CallTerms
    events: Events
    accepted: api.Accepted
    position: Position
    is_resumable: bool

    async def leave(self) -> None:
        """The client has left: cancel the request, unless the client can come back to it. Then it
        runs on for its orphan timeout.
        """
        await self.events.aclose()
        if self.is_resumable:
            return
        request = api.CancelRequest(request_id=self.accepted.request_id)
        # If it cannot be cancelled, its orphan timeout ends it.
        with anyio.move_on_after(_CANCEL_S, shield=True), suppress(Glm4vError):
            await self.gateway.cancel(self.terms.caller, request)


async def start(
    gateway: Gateway,
    request: api.GenerateRequest,
    terms: CallTerms,
    *,
    is_stream: bool,
    from_first_token: bool = False,
) -> Running:
    """Submit a request, or go on with a stream at the position that its client sent.

    A request that names itself is known by that name, before `Idempotency-Key`. Events of a stream
    that goes on begin at its position, or at the first token for a format that needs the whole
    answer at its end. Raises as `Gateway.generate` and `Gateway.attach`.
    """
    if terms.position is not None and not is_stream:
        raise InvalidRequest("Last-Event-ID is for streams; leave it out, or set stream to true")
    request.request_id = request.request_id or terms.request_id
    if terms.position is None:
        events: Events = await gateway.generate(
            terms.caller, request, time_limit_s=terms.time_limit_s
        )
    else:
        # The end of a choice is not sent again, but text that is behind its last token would be.
        offsets = () if from_first_token else terms.position.tokens
        attach = api.AttachRequest(request_id=terms.position.request_id, token_offsets=offsets)
        events = await gateway.attach(terms.caller, attach)
    accepted = (await anext(events)).accepted
    return Running(
        gateway,
        terms,
        events,
        accepted,
        _position(terms.position, accepted),
        is_resumable=bool(request.request_id) or terms.with_event_ids,
    )


def _position(sent: Position | None, accepted: api.Accepted) -> Position:
    """The position that a client sent, with all choices, or the start."""
    position = sent or Position(accepted.request_id, [])
    position.tokens += [0] * (accepted.n - len(position.tokens))
    return position
