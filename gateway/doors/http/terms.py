"""What the headers of a request say about how to run it."""

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from gateway.access.caller import Caller
from gateway.doors.http.caller import caller
from gateway.doors.http.position import Position
from glm4v.errors import InvalidRequest

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DIGITS = 32  # of a digest that stands for a key


@dataclass(frozen=True, slots=True)
class CallTerms:
    """How to run a request.

    Attributes:
        caller: Its owner.
        request_id: Of `Idempotency-Key`; empty without. The same request with the same key attaches
            to the first.
        time_limit_s: `X-Request-Timeout`; None for the default.
        with_event_ids: Whether frames of a stream carry an id, because `Last-Event-ID` was sent,
            empty at first. Some clients read no stream with ids.
        position: Where `Last-Event-ID` says a stream broke off; None for a new request.
    """

    caller: Caller
    request_id: str = ""
    time_limit_s: float | None = None
    with_event_ids: bool = False
    position: Position | None = None


async def _read_terms(request: Request, caller: Annotated[Caller, Depends(caller)]) -> CallTerms:
    """A dependency. Raises InvalidRequest."""
    last_id = request.headers.get("last-event-id")
    return CallTerms(
        caller,
        _request_id(request.headers.get("idempotency-key", ""), caller),
        _seconds(request.headers.get("x-request-timeout")),
        with_event_ids=last_id is not None,
        position=Position.parse(last_id) if last_id else None,
    )


Terms = Annotated[CallTerms, Depends(_read_terms)]


def _request_id(key: str, caller: Caller) -> str:
    """The request id of an idempotency key, which may be any text, in quotes or not.

    Keys of two owners never meet, so an id of an owner is a digest of both.
    """
    key = key.strip().strip('"')
    if not key or (not caller.owner and _ID.fullmatch(key)):
        return key
    text = f"{caller.owner}\n{key}".encode("utf-8", "replace")
    return f"key-{hashlib.sha256(text).hexdigest()[:_DIGITS]}"


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise InvalidRequest(f"X-Request-Timeout is {text[:40]!r}; send seconds, above 0")
    return seconds
