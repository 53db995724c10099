"""The statuses that end calls: whose they are, and how long their texts may be."""

from collections.abc import Iterable
from typing import Any

# Trailing metadata of every status that one of our processes wrote; its value is the status' name.
# A status without it was made by a proxy, by the connection, or by gRPC itself.
STATUS_KEY = "glm4v-status"

# gRPC sends a text as a header, escaped. Clients refuse some headers from 8 KB on, all above 16 KB.
MAX_TEXT_BYTES = 2048
_NOTE_BYTES = 64  # for the words in the middle of a shortened text
_TAIL_SHARE = 4  # of what is kept, one part is the end, which says what to change


def mark(code: str) -> tuple[str, str]:
    """The trailing metadata of a status called `code`."""
    return (STATUS_KEY, code)


def is_marked(metadata: Iterable[Any] | None) -> bool:
    """Whether trailing metadata, as pairs of key and value, are those of a status of ours."""
    return any(key == STATUS_KEY for key, *_ in metadata or ())


def bounded(text: str, limit: int = MAX_TEXT_BYTES) -> str:
    """The text, without its middle where it takes more than `limit` bytes as a gRPC header."""
    if len(text) <= limit // 12 or _header_bytes(text) <= limit:  # 12: four escaped bytes
        return text
    room = limit - _NOTE_BYTES
    head = _prefix_length(text, room - room // _TAIL_SHARE)
    tail = _prefix_length(text[::-1], room // _TAIL_SHARE)
    left_out = len(text) - head - tail
    return f"{text[:head]} ... [{left_out} characters left out] ... {text[len(text) - tail :]}"


def _prefix_length(text: str, limit: int) -> int:
    """How many characters from the start fit into `limit` bytes."""
    used = 0
    for length, character in enumerate(text[: limit + 1]):
        used += _header_bytes(character)
        if used > limit:
            return length
    return min(len(text), limit)


def _header_bytes(text: str) -> int:
    """Bytes as a percent-encoded `grpc-message` header (gRPC over HTTP/2, "Responses")."""
    plain = sum(" " <= character <= "~" and character != "%" for character in text)
    return plain + 3 * (len(text.encode("utf-8", "replace")) - plain)
