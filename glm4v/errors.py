"""What can go wrong, by what the caller can do about it.

Glm4vError
├── ConfigurationError  correct a setting or an option         (never sent)         exit 2
├── InvalidRequest      change the request                     INVALID_ARGUMENT     exit 3
├── UnknownReference    that id or digest is not known         NOT_FOUND            exit 3
├── IdTaken             choose another request id              ALREADY_EXISTS       exit 3
├── CheckpointError     repair or choose another checkpoint    FAILED_PRECONDITION  exit 4
├── Unavailable         start it, or wait for it               UNAVAILABLE          exit 5
├── Overloaded          ask later, or ask for less             RESOURCE_EXHAUSTED   exit 6
├── DeadlinePassed      give it more time                      DEADLINE_EXCEEDED    exit 6
├── Cancelled           it was ended on purpose                CANCELLED            exit 7
└── RequestFailed       it was given up                        ABORTED              exit 1

Messages are one line, say what was seen with numbers, and what to change. Everything that is not
one of these is a bug: its text goes to the log and never to a caller.
"""


class Glm4vError(Exception):
    """Base of the tree; `code` is the gRPC status name, `exit_code` what a command ends with."""

    code = "INTERNAL"
    exit_code = 1


class ConfigurationError(Glm4vError):
    """A setting, an option or what they say together cannot work; a process does not start."""

    exit_code = 2


class InvalidRequest(Glm4vError):
    """The request can never work as it is."""

    code = "INVALID_ARGUMENT"
    exit_code = 3


class UnknownReference(Glm4vError):
    """A request id or image digest that is not, or no longer, known."""

    code = "NOT_FOUND"
    exit_code = 3


class IdTaken(Glm4vError):
    """The request id belongs to a request with other content."""

    code = "ALREADY_EXISTS"
    exit_code = 3


class CheckpointError(Glm4vError):
    """A checkpoint that cannot be served; names the file and the tensor."""

    code = "FAILED_PRECONDITION"
    exit_code = 4


class Unavailable(Glm4vError):
    """A part of the system does not answer."""

    code = "UNAVAILABLE"
    exit_code = 5


class Overloaded(Glm4vError):
    """A limit was met; carries the numbers."""

    code = "RESOURCE_EXHAUSTED"
    exit_code = 6


class DeadlinePassed(Glm4vError):
    """The request was not done when its time was up."""

    code = "DEADLINE_EXCEEDED"
    exit_code = 6


class Cancelled(Glm4vError):
    """The request was ended by its caller, or because nobody read it."""

    code = "CANCELLED"
    exit_code = 7


class RequestFailed(Glm4vError):
    """The request was accepted and given up later."""

    code = "ABORTED"


def by_code(code: str, message: str) -> Glm4vError:
    """The error a gRPC status name stands for; RequestFailed for any other."""
    for kind in Glm4vError.__subclasses__():
        if kind.code == code != Glm4vError.code:
            return kind(message)
    return RequestFailed(message)
