"""Calls to a gateway: failures as our errors, and patience while it is away."""

import random
import time
from typing import TypeVar

import grpc

from glm4v.errors import DeadlinePassed, Glm4vError, Unavailable, by_code

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_MAX_MESSAGE_BYTES = 64 * 2**20  # pictures go up in one message
_MIN_TIMEOUT_S = 0.001

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class Patience:
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


def open_channel(target: str) -> grpc.Channel:
    """A channel that carries pictures and comes back quickly after a gateway was away."""
    options: list[tuple[str, int]] = [
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
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
    patience_s: float,
) -> _Reply:
    """The reply to a call that may be repeated, tried for up to `patience_s` while nobody answers.

    Raises the error the gateway names, Unavailable or DeadlinePassed.
    """
    started = time.monotonic()
    patience = Patience(started + min(patience_s, timeout_s))
    while True:
        try:
            return call(request, timeout=seconds_until(started + timeout_s))
        except grpc.RpcError as error:
            failure = error_of(error, target, timeout_s, time.monotonic() - started)
            if not isinstance(failure, Unavailable) or not patience.pause():
                raise failure from None


def seconds_until(deadline: float) -> float:
    """What is left to a time of `time.monotonic()`, as a timeout gRPC takes."""
    return max(deadline - time.monotonic(), _MIN_TIMEOUT_S)


def is_nobody_there(error: grpc.RpcError) -> bool:
    """Whether the call has to be made again, here or elsewhere, for an answer.

    A gateway that stops drops what has arrived and nobody has looked at; gRPC calls that CANCELLED,
    in this word alone, where the gateway's own cancellations say more.
    """
    code = error.code()
    is_dropped = code == grpc.StatusCode.CANCELLED and error.details() == "CANCELLED"
    return bool(code == grpc.StatusCode.UNAVAILABLE or is_dropped)


def error_of(error: grpc.RpcError, target: str, timeout_s: float, away_s: float) -> Glm4vError:
    """One of ours for a failed call; `away_s` is how long nobody has answered."""
    code, details = error.code(), error.details() or "no reason given"
    if is_nobody_there(error):
        _, is_grpcs, last = details.partition("last error: ")
        reason = last.rpartition(": ")[2] if is_grpcs else details
        return Unavailable(
            f"{target} was unavailable for {away_s:.1f} s: {reason}; is the gateway running there?"
        )
    # gRPC's own words, not the gateway's.
    if code == grpc.StatusCode.DEADLINE_EXCEEDED and "Deadline Exceeded" in details:
        return DeadlinePassed(f"no complete answer within {timeout_s:g} s; allow more time")
    return by_code(code.name, details)
