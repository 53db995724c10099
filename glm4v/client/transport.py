"""Calls to a gateway: failures as our errors, and patience while it is away."""

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
_MOST_BREAKS = 5  # of a call that nobody has accepted yet
_MANY_BYTES = 2**20  # what nginx takes unless told otherwise; other proxies take more
_MAX_TIMEOUT_S = 1e8  # three years; gRPC counts nanoseconds and overflows at 292

# A gateway that is frozen or cut off is given up after the sum of both. It is the ping's timeout
# that decides: `grpc.keepalive_timeout_ms` alone leaves it at a minute.
KEEPALIVE_MS = 10_000  # Go's servers forbid less
PING_TIMEOUT_MS = 5_000

# How a call ends that a proxy or the connection broke off; nothing of that is a gateway's decision.
_BREAKS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
_OWN_CANCELS = ("Locally cancelled by application!", "Channel closed!")
_TOO_LARGE = "status: 413"  # HTTP's number in gRPC's words

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply")


class BrokenOff(Unavailable):
    """A call that a proxy or the connection ended, or a stream that ended before its answer."""


class Backoff:
    """Pauses between attempts, ever longer, that end at a time of `time.monotonic()`."""

    def __init__(self, until: float) -> None:
        self._until = until
        self._pause_s = _FIRST_PAUSE_S

    def pause(self) -> bool:
        """Wait; false at once when the time is over."""
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(left_s, self._pause_s * random.uniform(0.5, 1)))  # not all clients at once
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return True


class Breaks:
    """Counts how often one call was broken off: a proxy may refuse it without saying so."""

    def __init__(self, request: Message) -> None:
        self._bytes = request.ByteSize()
        self._count = 0

    def check(self, failure: Glm4vError) -> None:
        """Count a failure; raises it when it has come too often to be chance."""
        if not isinstance(failure, BrokenOff):
            return
        self._count += 1
        if self._count < _MOST_BREAKS:
            return
        advice = ""
        if self._bytes > _MANY_BYTES:
            advice = (
                f"; the message has {self._bytes} bytes: does a proxy limit that "
                "(nginx: client_max_body_size)?"
            )
        raise BrokenOff(f"{failure}, {self._count} times{advice}")


def open_channel(target: str) -> grpc.Channel:
    """A channel that carries images, comes back quickly, and notices a gateway that is frozen."""
    options: list[tuple[str, int]] = [
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),  # a quiet stream needs them most
    ]
    if target.startswith(("127.", "localhost", "[::1]")):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy has another idea of "here"
    return grpc.insecure_channel(target, options=options)


def unary(
    call: "grpc.UnaryUnaryMultiCallable[_Request, _Reply]",
    request: _Request,
    *,
    target: str,
    timeout_s: float,
    retry_timeout_s: float,
) -> _Reply:
    """The reply to a call that may be repeated, for up to `retry_timeout_s` while nobody answers.

    Raises the error the gateway names, Unavailable or DeadlinePassed.
    """
    started = time.monotonic()
    patience, breaks = Backoff(started + min(retry_timeout_s, timeout_s)), Breaks(request)
    while True:
        try:
            return call(request, timeout=seconds_until(started + timeout_s))
        except grpc.RpcError as error:
            failure = to_error(error, target, timeout_s, time.monotonic() - started)
        if isinstance(failure, Unavailable):
            breaks.check(failure)
            if patience.pause():
                continue
        raise failure


def seconds_until(deadline: float) -> float:
    """What is left to a time of `time.monotonic()`, as a timeout gRPC takes."""
    return min(max(deadline - time.monotonic(), _MIN_TIMEOUT_S), _MAX_TIMEOUT_S)


def check_timeout(name: str, seconds: float) -> float:
    """The seconds; InvalidRequest unless they are above 0. Infinity waits as long as it takes."""
    if not seconds > 0:  # so that what is no number is refused too
        raise InvalidRequest(f"{name} is {seconds:g}; seconds above 0 are needed, inf has no end")
    return seconds


def is_retryable(error: grpc.RpcError) -> bool:
    """Whether the call has to be made again, here or elsewhere, for an answer."""
    return error.code() == grpc.StatusCode.UNAVAILABLE or _is_broken_off(error)


def _is_broken_off(error: grpc.RpcError) -> bool:
    """Whether a proxy, the connection, or a gateway that fell over it ended the call.

    A gateway marks what it decides. What gRPC decides here, on this side, is known by its words.
    """
    code, details = error.code(), error.details() or ""
    if code not in _BREAKS or is_marked(error.trailing_metadata()):
        return False
    return not (_is_own_deadline(code, details) or details in _OWN_CANCELS)


def _is_own_deadline(code: grpc.StatusCode, details: str) -> bool:
    return code == grpc.StatusCode.DEADLINE_EXCEEDED and "Deadline Exceeded" in details


def to_error(error: grpc.RpcError, target: str, timeout_s: float, outage_s: float) -> Glm4vError:
    """One of ours for a failed call; `outage_s` is how long nobody has answered."""
    code, details = error.code(), bounded(error.details() or "no reason given")
    if _is_broken_off(error) and _TOO_LARGE in details:
        return InvalidRequest(
            f"a proxy at {target} takes no message of this size ({details}); raise its limit "
            "(nginx: client_max_body_size) or send a smaller image"
        )
    if _is_broken_off(error):
        return BrokenOff(f"{target} broke the call off ({code.name}: {details})")
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
