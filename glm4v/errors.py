"""Errors, by what the caller can do about them.

Glm4vError
├── ConfigurationError  correct a setting or an option         (never sent)         exit 2
├── InvalidRequest      change the request                     INVALID_ARGUMENT     exit 3
│   └── ContextExceeded shorten the conversation, or the answer, to fit the context
├── Unauthenticated     send a valid API key               UNAUTHENTICATED      exit 3
├── UnknownReference    send an id or digest that exists       NOT_FOUND            exit 3
├── IdTaken             choose another request id              ALREADY_EXISTS       exit 3
├── CheckpointError     repair or choose another checkpoint    FAILED_PRECONDITION  exit 4
├── Unavailable         start it, or wait for it               UNAVAILABLE          exit 5
├── Overloaded          retry later, or request less           RESOURCE_EXHAUSTED   exit 6
│   └── TooLarge        request less: retrying does not help
├── DeadlinePassed      give it more time                      DEADLINE_EXCEEDED    exit 6
├── Cancelled           none: it was ended on purpose          CANCELLED            exit 7
├── DeviceFailed        none: the process ends, others go on   (never sent)         exit 5
└── RequestFailed       retry, or report it                    ABORTED              exit 1

A message is one line that says what was found, with numbers, and what to change. Every other
exception is a bug: its text is logged and never sent to a caller.
"""


class Glm4vError(Exception):
    """Base of the tree. `code` is the name of the gRPC status, `exit_code` that of a command."""

    code = "INTERNAL"
    exit_code = 1


class ConfigurationError(Glm4vError):
    """A setting, an option or their combination is invalid; the process does not start."""

    exit_code = 2


class InvalidRequest(Glm4vError):
    """The request can never succeed."""

    code = "INVALID_ARGUMENT"
    exit_code = 3


class ContextExceeded(InvalidRequest):
    """The prompt, or the answer that was asked for after it, does not fit into the context."""


class Unauthenticated(Glm4vError):
    """No valid API key; the message is the same for every reason."""

    code = "UNAUTHENTICATED"
    exit_code = 3


class UnknownReference(Glm4vError):
    """A request id or image digest that is unknown or has expired."""

    code = "NOT_FOUND"
    exit_code = 3


class IdTaken(Glm4vError):
    """The request id belongs to a different request."""

    code = "ALREADY_EXISTS"
    exit_code = 3


class CheckpointError(Glm4vError):
    """The checkpoint cannot be served; the message names the file and the tensor."""

    code = "FAILED_PRECONDITION"
    exit_code = 4


class Unavailable(Glm4vError):
    """Part of the system does not answer."""

    code = "UNAVAILABLE"
    exit_code = 5


class Overloaded(Glm4vError):
    """A limit was reached; the message has the numbers."""

    code = "RESOURCE_EXHAUSTED"
    exit_code = 6


class TooLarge(Overloaded):
    """One request exceeds a limit by itself: it fails again however often it is sent."""


class DeadlinePassed(Glm4vError):
    """The deadline passed before the request ended."""

    code = "DEADLINE_EXCEEDED"
    exit_code = 6


class Cancelled(Glm4vError):
    """The request was cancelled, or no client was attached for too long."""

    code = "CANCELLED"
    exit_code = 7


class DeviceFailed(Glm4vError):
    """The accelerator failed for good; the process ends, and another one takes over its work."""

    exit_code = 5


class RequestFailed(Glm4vError):
    """The request was accepted and later aborted."""

    code = "ABORTED"


_BY_CODE: dict[str, type[Glm4vError]] = {
    kind.code: kind
    for kind in (
        InvalidRequest,
        Unauthenticated,
        UnknownReference,
        IdTaken,
        CheckpointError,
        Unavailable,
        Overloaded,
        DeadlinePassed,
        Cancelled,
        RequestFailed,
    )
}
# What a process that does not start may end with. Requests share some of these exit codes.
_BY_EXIT_CODE: dict[int, type[Glm4vError]] = {
    kind.exit_code: kind
    for kind in (ConfigurationError, InvalidRequest, CheckpointError, Unavailable, Overloaded)
}


def by_code(code: str, message: str) -> Glm4vError:
    """The error for the name of a gRPC status; RequestFailed for any other."""
    return _BY_CODE.get(code, RequestFailed)(message)


def by_exit_code(exit_code: int, message: str) -> Glm4vError | None:
    """The error that a process failed to start with; None for any other exit code."""
    kind = _BY_EXIT_CODE.get(exit_code)
    return None if kind is None else kind(message)
