"""A client of server-sent events that follows the standard and sends its request again when the
connection breaks, to the next gateway.

Source: WHATWG HTML, "Server-sent events" (9.2.5 to 9.2.7). Its requests are POSTs with a body, as
those of the libraries that browsers use for chat APIs.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

_READ_S = 20.0


@dataclass
class EventStream:
    """What has come of one stream.

    Attributes:
        events: Type and data of each event.
        comments: In the order in which they came.
        last_event_id: Sent with the next request.
        interruptions: How often the connection broke.
    """

    events: list[tuple[str, str]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    last_event_id: str = ""
    interruptions: int = 0


async def follow(
    stream: EventStream, sockets: Sequence[str], path: str, body: dict[str, Any], **headers: str
) -> AsyncIterator[tuple[str, str]]:
    """Events until the server ends the stream; `stream` records them.

    Args:
        stream: Where the events go.
        sockets: Paths of the gateways' sockets, tried in rotation.
        path: Of the URL.
        body: Sent again with each request.
        headers: Of each request.
    """
    for attempt in range(100):
        transport = httpx.AsyncHTTPTransport(uds=sockets[attempt % len(sockets)])
        last = {"last-event-id": stream.last_event_id}
        try:
            async with (
                httpx.AsyncClient(
                    transport=transport, base_url="http://gateway", timeout=_READ_S
                ) as client,
                client.stream("POST", path, json=body, headers={**headers, **last}) as response,
            ):
                if response.status_code != 200:
                    raise AssertionError((await response.aread()).decode())
                async for event in _events(stream, response.aiter_lines()):
                    yield event
            return
        except httpx.TransportError:
            stream.interruptions += 1
    raise AssertionError("no gateway ends the stream")


async def _events(stream: EventStream, lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, str]]:
    kind, data = "", list[str]()
    last_event_id = stream.last_event_id
    async for line in lines:
        if not line:
            stream.last_event_id = last_event_id
            if data:
                stream.events.append((kind or "message", "\n".join(data)))
                yield stream.events[-1]
            kind, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            stream.comments.append(value)
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            last_event_id = value
