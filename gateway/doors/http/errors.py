"""Errors as HTTP: a status, and a body in the form of the format that was asked."""

import logging
import uuid
from dataclasses import dataclass
from typing import Protocol

from starlette.responses import Response

from gateway.doors.http.model_name import UnknownModel
from glm4v.errors import (
    Cancelled,
    ContextExceeded,
    DeadlinePassed,
    Glm4vError,
    IdTaken,
    InvalidRequest,
    Overloaded,
    RequestFailed,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnknownReference,
)
from glm4v.status import bounded

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1  # 1 to 120: OpenAI's client waits that long, and does not retry above

# The first kind that fits counts.
_STATUSES: tuple[tuple[type[Glm4vError], int], ...] = (
    (InvalidRequest, 400),
    (Unauthenticated, 401),
    (UnknownReference, 404),
    (IdTaken, 422),  # as draft-ietf-httpapi-idempotency-key-header has it; 409 would be retried
    (TooLarge, 413),
    (Overloaded, 429),
    (Cancelled, 499),
    (RequestFailed, 500),
    (Unavailable, 503),
    (DeadlinePassed, 504),
)
_CODES: dict[type[Glm4vError], str] = {  # names that clients know
    ContextExceeded: "context_length_exceeded",
    Unauthenticated: "invalid_api_key",
    UnknownModel: "model_not_found",
}
_RETRYABLE = {408, 429, 503}
_FINAL = {500, 501, 504}  # clients retry them unless told otherwise


class InvalidField(InvalidRequest):
    """A field of the body does not have its type; `field` is its path."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Problem:
    """An error on its way out.

    Attributes:
        status: Of HTTP.
        message: One line that says what to change.
        field: The field of the body that is wrong, if it is known.
        code: A name for programs, if the status does not say enough.
        incident: Of a bug, in the log.
    """

    status: int
    message: str
    field: str | None = None
    code: str | None = None
    incident: str | None = None


class ErrorForm(Protocol):
    """How a format writes errors."""

    def status(self, problem: Problem) -> int:
        """The status of an answer: the problem's, or what the format has instead."""

    def body(self, problem: Problem) -> bytes:
        """The JSON body of an answer that is an error."""

    def frame(self, problem: Problem) -> bytes:
        """The JSON payload of the frame that ends a stream which has begun."""


def problem_of(error: Exception) -> Problem:
    """What an error becomes. The text of a bug goes to the log, never to a client."""
    if not isinstance(error, Glm4vError):
        incident = uuid.uuid4().hex[:12]
        log.error("incident=%s unexpected error", incident, exc_info=error)
        message = f"unexpected error; see incident {incident} in the server's log"
        return Problem(500, message, incident=incident)
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
    field = error.field if isinstance(error, InvalidField) else None
    sendable = str(error).encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent
    return Problem(status, bounded(sendable), field or None, code)


def error_response(problem: Problem, form: ErrorForm) -> Response:
    """The answer for an error, with what tells clients whether to try again."""
    headers, status = {}, form.status(problem)
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in _RETRYABLE:
        headers["retry-after"] = str(RETRY_AFTER_S)
    if status in _FINAL:
        headers["x-should-retry"] = "false"
    if problem.status == 503:
        headers["connection"] = "close"  # another replica may take the next request
    return Response(form.body(problem), status, headers, media_type="application/json")
