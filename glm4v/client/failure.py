"""Failed gRPC calls as errors of `glm4v.errors`."""

import grpc

from glm4v.errors import DeadlinePassed, Glm4vError, InvalidRequest, Unavailable, by_code
from glm4v.status import bounded, is_marked

# Statuses of calls that a proxy or a lost connection broke off; no gateway decided them.
_BREAKS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
_OWN_CANCELS = ("Locally cancelled by application!", "Channel closed!")
_TOO_LARGE = "status: 413"  # an HTTP status in gRPC's text


class BrokenOff(Unavailable):
    """A call ended by a proxy or a lost connection, or a stream that ended too early."""


def is_retryable(error: grpc.RpcError) -> bool:
    """Whether a retry, on this gateway or another, may succeed."""
    return error.code() == grpc.StatusCode.UNAVAILABLE or _is_broken_off(error)


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
