"""Which of two dialects a client speaks, where MindIE and the original of a format differ."""

from enum import StrEnum

from starlette.requests import HTTPConnection

from glm4v.errors import InvalidRequest

HEADER = "glm4v-dialect"


class Dialect(StrEnum):
    """Whose form of TGI's and vLLM's formats."""

    ORIGINAL = "original"
    MINDIE = "mindie"


def dialect_of(request: HTTPConnection, default: Dialect) -> Dialect:
    """The dialect that a request names in its header, or the gateway's. Raises InvalidRequest."""
    named = request.headers.get(HEADER)
    if named is None:
        return default
    try:
        return Dialect(named.strip().lower())
    except ValueError:
        names = " or ".join(Dialect)
        raise InvalidRequest(f"{HEADER} is {named[:40]!r}; send {names}") from None
