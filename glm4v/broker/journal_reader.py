"""One reader of a journal, and the errors that a journal can hold for its reader."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator

from glm4v.broker.entries import Entry, Event, RawEntry, Unreadable, read_entry
from glm4v.errors import RequestFailed, Unavailable, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb

log = logging.getLogger(__name__)

BATCH = 256  # entries of one journal in one read


class JournalReader:
    """Reads one journal from its start. While it is open, the request counts as being read.

    Args:
        job: The job of the request, already read.
        entries: The first entries of the journal, at most BATCH.
        read_after: Reads at most BATCH entries after an entry id.
        wait_after: Waits for entries after an entry id, up to a number of seconds.
        close: Stops counting this reader.
    """

    def __init__(
        self,
        request_id: str,
        job: pb.Job,
        entries: list[RawEntry],
        *,
        read_after: Callable[[bytes], Awaitable[list[RawEntry]]],
        wait_after: Callable[[bytes, float], Awaitable[list[RawEntry]]],
        close: Callable[[], object],
    ) -> None:
        self.job = job
        self._position = JournalPosition(request_id)
        self._read_after = read_after
        self._wait_after = wait_after
        self.close = close
        self._take(entries, is_history=True)
        next(self._events)  # the entry that holds the job

    async def next(self, wait_s: float) -> Event | None:
        """The next event after the job; None when no entry arrives within `wait_s`.

        Not to be called after a JournalEnd. Raises Unavailable, UnknownReference and RequestFailed.
        """
        while (event := next(self._events, None)) is None:
            if not await self._fetch(wait_s):
                return None
        return event

    async def _fetch(self, wait_s: float) -> bool:
        """Fetch more entries; False when none arrived."""
        entries: list[RawEntry] = []
        if is_history := self._has_more:
            entries = await self._read_after(self._last)
        if not entries:
            is_history = False
            entries = await self._wait_after(self._last, wait_s)
        if entries:
            self._take(entries, is_history=is_history)
        return bool(entries)

    def _take(self, entries: list[RawEntry], *, is_history: bool) -> None:
        self._last = entries[-1][0]
        self._has_more = is_history and len(entries) == BATCH
        self._events = self._position.advance(entries, is_history=is_history)


class JournalPosition:
    """How far one reader of a journal has read."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._num_tokens = 0
        self._is_accepted = False

    def advance(self, entries: Iterable[RawEntry], *, is_history: bool) -> Iterator[Event]:
        """The events in entries, without tokens that the reader has already.

        A worker generates tokens again when Redis has lost their entry. `is_history`: the entries
        were read in one piece from the first one. Raises RequestFailed when the journal has a gap,
        Unavailable when the gap may be in what was read, and UnknownReference when another journal
        has taken the place of this one.
        """
        for entry in readable_entries(self._request_id, entries):
            missing = entry.tokens_before - self._num_tokens
            is_token = isinstance(entry.event, pb.JournalTokens | pb.JournalEnd)
            if missing > 0 and is_token:
                error = damaged_journal if is_history else missed_entries
                raise error(self._request_id)
            if isinstance(entry.event, pb.JournalAccepted):
                if self._is_accepted:
                    raise unknown_request(self._request_id)
                self._is_accepted = True
            if isinstance(entry.event, pb.JournalTokens):
                _drop_first(entry.event, -missing)
                self._num_tokens += len(entry.event.ids)
            yield entry.event


def readable_entries(request_id: str, entries: Iterable[RawEntry]) -> Iterator[Entry]:
    """Entries that can be read; the others are logged and skipped."""
    for entry in entries:
        try:
            yield read_entry(entry)
        except Unreadable as error:
            log.error("request=%s entry=%s skipped: %s", request_id, entry[0].decode(), error)


def job_of(request_id: str, entries: list[RawEntry]) -> pb.Job:
    """The job in a journal's first entry. Raises RequestFailed."""
    try:
        first = read_entry(entries[0]).event
    except Unreadable as error:
        raise RequestFailed(f"request {request_id!r} cannot be read: {error}") from None
    if not isinstance(first, pb.JournalAccepted):
        raise RequestFailed(f"request {request_id!r} cannot be read: its first entry is missing")
    return first.job


def unknown_request(request_id: str) -> UnknownReference:
    """The error for an id that no request of the caller has."""
    return UnknownReference(
        f"request {request_id!r} is unknown: it was never accepted, or its result has expired"
    )


def missed_entries(request_id: str) -> Unavailable:
    """The error for entries that were deleted before this reader could read them."""
    return Unavailable(
        f"entries of request {request_id!r} were lost before they were read; attach again"
    )


def damaged_journal(request_id: str) -> RequestFailed:
    """The error for a journal with a gap."""
    return RequestFailed(f"entries are missing in the journal of request {request_id!r}")


def _drop_first(tokens: pb.JournalTokens, count: int) -> None:
    if count > 0:
        del tokens.ids[:count]
        del tokens.logprobs[:count]
