"""Calls to a gateway: gRPC failures as errors of `glm4v.errors`, and retries."""

import random
import time
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from glm4v.errors import DeadlinePassed, Glm4vError, InvalidRequest, Unavailable, by_code
from glm4v.status import bounded, is_marked

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_MAX_MESSAGE_BYTES = 64 * 2**20  # images go up in one message
_MIN_TIMEOUT_S = 0.001
_MAX_BREAKS = 5  # of a call that no gateway has accepted yet
_MANY_BYTES = 2**20  # what nginx takes unless told otherwise; other proxies take more
_MAX_TIMEOUT_S = 1e8  # three years; gRPC counts nanoseconds and overflows at 292

# A frozen or unreachable gateway is detected after the sum of both. The ping timeout decides:
# `grpc.keepalive_timeout_ms` alone leaves it at a minute.
KEEPALIVE_MS = 10_000  # servers in Go reject shorter ones
PING_TIMEOUT_MS = 5_000

# Statuses of calls that a proxy or a lost connection broke off; no gateway decided them.
_BREAKS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
_OWN_CANCELS = ("Locally cancelled by application!", "Channel closed!")
_TOO_LARGE = "status: 413"  # an HTTP status in gRPC's text

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply")


class BrokenOff(Unavailable):
    """A call ended by a proxy or a lost connection, or a stream that ended too early."""


class Backoff:
    """Exponential backoff with jitter until a time of `time.monotonic()`."""

    def __init__(self, until: float) -> None:
        self._until = until
        self._pause_s = _FIRST_PAUSE_S

    def pause(self) -> bool:
        """Sleep; false at once if the time is over."""
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(left_s, self._pause_s * random.uniform(0.5, 1)))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return True


class Breaks:
    """Limits how often a call may break off: a proxy may reject it without saying so."""

    def __init__(self, request: Message) -> None:
        self._bytes = request.ByteSize()
        self._count = 0

    def check(self, failure: Glm4vError) -> None:
        """Count a failure. Raises it once it is too frequent to be chance."""
        if not isinstance(failure, BrokenOff):
            return
        self._count += 1
        if self._count < _MAX_BREAKS:
            return
        advice = ""
        if self._bytes > _MANY_BYTES:
            advice = (
                f"; the message has {self._bytes} bytes: does a proxy limit that "
                "(nginx: client_max_body_size)?"
            )
        raise BrokenOff(f"{failure}, {self._count} times{advice}")


def open_channel(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """A channel for large images that reconnects quickly and detects a frozen gateway.

    It uses TLS where there are credentials.
    """
    options: list[tuple[str, int]] = [
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),  # idle streams need pings most
    ]
    if target.startswith(("127.", "localhost", "[::1]")):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy has another loopback
    if credentials is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, credentials, options=options)


def unary(
    call: "grpc.UnaryUnaryMultiCallable[_Request, _Reply]",
    request: _Request,
    *,
    target: str,
    timeout_s: float,
    retry_timeout_s: float,
) -> _Reply:
    """The reply to an idempotent call, which is retried for `retry_timeout_s`.

    Raises the error that the gateway returned, Unavailable or DeadlinePassed.
    """
    started = time.monotonic()
    backoff, breaks = Backoff(started + min(retry_timeout_s, timeout_s)), Breaks(request)
    while True:
        try:
            return call(request, timeout=seconds_until(started + timeout_s))
        except grpc.RpcError as error:
            failure = to_error(error, target, timeout_s, time.monotonic() - started)
        if isinstance(failure, Unavailable):
            breaks.check(failure)
            if backoff.pause():
                continue
        raise failure


def seconds_until(deadline: float) -> float:
    """The seconds until a time of `time.monotonic()`, within gRPC's limits of a timeout."""
    return min(max(deadline - time.monotonic(), _MIN_TIMEOUT_S), _MAX_TIMEOUT_S)


def check_timeout(name: str, seconds: float) -> float:
    """The seconds. Raises InvalidRequest unless they are above 0; infinity means no timeout."""
    if not seconds > 0:  # not-a-number fails too
        raise InvalidRequest(f"{name} is {seconds:g}; it must be above 0 (inf: no timeout)")
    return seconds


def is_retryable(error: grpc.RpcError) -> bool:
    """Whether a retry, on this gateway or another, may succeed."""
    return error.code() == grpc.StatusCode.UNAVAILABLE or _is_broken_off(error)


def _is_broken_off(error: grpc.RpcError) -> bool:
    """Whether a proxy, a lost connection or a crashing gateway ended the call.

    A gateway marks its own statuses. Statuses of the local gRPC library are known by their text.
    """
    code, details = error.code(), error.details() or ""
    if code not in _BREAKS or is_marked(error.trailing_metadata()):
        return False
    return not (_is_own_deadline(code, details) or details in _OWN_CANCELS)


def _is_own_deadline(code: grpc.StatusCode, details: str) -> bool:
    return code == grpc.StatusCode.DEADLINE_EXCEEDED and "Deadline Exceeded" in details


def to_error(error: grpc.RpcError, target: str, timeout_s: float, outage_s: float) -> Glm4vError:
    """The error for a failed call; `outage_s` is how long no gateway has answered."""
    code, details = error.code(), bounded(error.details() or "no reason given")
    if _is_broken_off(error) and _TOO_LARGE in details:
        return InvalidRequest(
            f"a proxy at {target} rejected the size of the message ({details}); raise its limit "
            "(nginx: client_max_body_size) or send a smaller image"
        )
    if _is_broken_off(error):
        return BrokenOff(f"{target} broke off the call ({code.name}: {details})")
    if code == grpc.StatusCode.UNAVAILABLE:
        _, is_grpcs, last = details.partition("last error: ")
        reason = last.rpartition(": ")[2] if is_grpcs else details
        return Unavailable(
            f"{target} was unavailable for {outage_s:.1f} s: {reason}; "
            "is the gateway running there?"
        )
    if _is_own_deadline(code, details) and not is_marked(error.trailing_metadata()):
        return DeadlinePassed(f"no complete answer within {timeout_s:g} s; allow more time")
    return by_code(code.name, details)
