"""A journal as one stream of events."""

from collections.abc import AsyncGenerator, Awaitable, Callable

from glm4v.broker.entries import Event
from glm4v.broker.journal_reader import JournalReader
from glm4v.internal.v1 import journal_pb2 as pb

WAIT_S = 300.0


async def events_of(
    follow: Callable[[str], Awaitable[JournalReader]], request_id: str
) -> AsyncGenerator[Event, None]:
    """All events of a request, up to and with its end."""
    reader = await follow(request_id)
    try:
        yield pb.JournalAccepted(job=reader.job)
        while True:
            event = await reader.next(WAIT_S)
            assert event is not None, f"no entry in {WAIT_S:g} s"
            yield event
            if isinstance(event, pb.JournalEnd):
                return
    finally:
        reader.close()
