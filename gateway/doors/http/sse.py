"""Server-sent events: how payloads become frames of a stream.

Source: WHATWG HTML, "Server-sent events". Clients differ in what they read (`docs/clients.md`), so
a frame is one `data:` line, after an `id:` line if the client asked for ids. There is never a frame
without data, and what is no data is a comment.
"""

from collections.abc import Iterable
from typing import Protocol


class Framing(Protocol):
    """How a format puts payloads into the body of a stream.

    Attributes:
        media_type: Of the body.
    """

    media_type: str

    def frames(self, payloads: Iterable[bytes], event_id: str | None) -> bytes:
        """Frames of these payloads. Whoever has the last one is at the position `event_id`."""

    def comment(self, text: str) -> bytes:
        """What keeps a silent stream open; empty where a format has nothing for it."""

    def error(self, payload: bytes) -> bytes:
        """The frame that ends a stream which failed; empty breaks the connection instead."""


class EventStreamFraming:
    """Server-sent events.

    Args:
        space: Whether a space follows `data:`, as most formats have it. The content is the same.
    """

    media_type = "text/event-stream; charset=utf-8"

    def __init__(self, *, space: bool = True) -> None:
        self._data = b"data: " if space else b"data:"

    def frames(self, payloads: Iterable[bytes], event_id: str | None) -> bytes:
        """See Framing."""
        data = self._data
        lines = [data + payload for payload in payloads]
        if not lines:
            return b""
        if event_id is not None:
            lines[-1] = b"id: %s\n%s" % (event_id.encode(), lines[-1])
        return b"\n\n".join(lines) + b"\n\n"

    def comment(self, text: str) -> bytes:
        """See Framing."""
        return f": {text}\n\n".encode()

    def error(self, payload: bytes) -> bytes:
        """See Framing. `event: error` is what benchmark tools take for a failure, the payload what
        client libraries do.
        """
        return b"event: error\n" + self._data + payload + b"\n\n"
