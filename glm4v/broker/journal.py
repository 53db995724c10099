"""One blocking read for all journals that a gateway follows."""

import asyncio
import logging
import uuid
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from glm4v.broker.clock import RedisClock
from glm4v.broker.connection import BLOCK_S, Connection, WrongType, translated
from glm4v.broker.entries import Entry, Event, RawEntry, Unreadable, read_entry
from glm4v.broker.keys import Keys
from glm4v.broker.waiters import Waiters
from glm4v.errors import Overloaded, RequestFailed, Unavailable, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb

log = logging.getLogger(__name__)

_BATCH = 256  # entries of one journal in one read
_BELL_TTL_S = 60
READER_HEARTBEAT_S = 1.0
READER_GRACE_S = 4.0  # a reader may be silent for that long, beside its request's orphan timeout
_RETRY_S = 0.2


class JournalHub:
    """Follows any number of journals with one blocking read.

    A reader that is slow has no buffer here: the journal itself is the queue, and a reader is only
    part of the read while it waits. `run` must be running; when Redis is away readers wait until it
    is back or their own deadline ends them.
    """

    def __init__(self, connection: Connection, keys: Keys, clock: RedisClock) -> None:
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._bell = keys.bell(uuid.uuid4().hex)
        self._bell_at: bytes = b"0"
        # Request id and orphan_timeout_ms of each reader.
        self._followed: dict[JournalReader, tuple[str, int]] = {}
        self._blocked = False  # a read is under way
        self._is_rung = False  # and was told to end
        self._is_closed = False
        self._rings: set[asyncio.Task[None]] = set()
        self.waiters = Waiters()

    async def follow(self, request_id: str, owner: str = "") -> "JournalReader":
        """Start to read a journal; the caller closes the reader.

        Raises UnknownReference when `owner` has no such request, and RequestFailed when its first
        entry cannot be read.
        """
        entries = await self._part(request_id, "-")
        reader = JournalReader(self, request_id, _job(request_id, entries, owner), entries)
        self._followed[reader] = (request_id, reader.job.orphan_timeout_ms)
        try:
            await self._extend_reader_deadlines([self._followed[reader]])
        except BaseException:
            reader.close()
            raise
        return reader

    async def job(self, request_id: str, owner: str = "") -> pb.Job:
        """The job of a request, without following it. Raises as `follow`."""
        return _job(request_id, await self._part(request_id, "-", 1), owner)

    async def _part(self, request_id: str, begin: str, count: int = _BATCH) -> list[RawEntry]:
        try:
            async with translated():
                entries: list[RawEntry] = await self._connection.commands.xrange(
                    self._keys.journal(request_id), begin, count=count
                )
        except WrongType:
            raise unknown_request(request_id) from None
        if not entries and begin == "-":
            raise unknown_request(request_id)
        await self._clock.set()
        return entries

    async def _next(self, request_id: str, after: bytes, wait_s: float) -> list[RawEntry]:
        if self._is_closed:
            raise _draining()
        journal = self._keys.journal(request_id)
        return await self.waiters.news(journal, after, self._wake, wait_s)

    def _wake(self) -> None:
        if self._blocked and not self._is_rung:
            self._is_rung = True
            ring = asyncio.ensure_future(self._send_wakeup())
            self._rings.add(ring)
            ring.add_done_callback(self._rings.discard)

    async def _send_wakeup(self) -> None:
        """Wake the read that is under way; unheard, it ends by itself within a second."""
        try:
            async with translated(), self._connection.commands.pipeline(transaction=True) as pipe:
                pipe.xadd(self._bell, {"r": 1}, maxlen=1)
                pipe.expire(self._bell, _BELL_TTL_S)
                await pipe.execute()
        except (Unavailable, Overloaded) as error:
            log.info("the next read waits: %s", error)

    def close(self) -> None:
        """End all reading that waits, now and from now on, with Unavailable."""
        self._is_closed = True
        self.waiters.fail_all(_draining)

    async def run(self) -> None:
        """Deliver news until cancelled."""
        while True:
            if not self.waiters:
                self.waiters.registered.clear()
                await self.waiters.registered.wait()
            try:
                await self._deliver_once()
            except WrongType:
                await self._pass_over_foreign_keys()
            except Unavailable:
                log.warning("journal reads wait: Redis does not answer")
                await asyncio.sleep(_RETRY_S)

    async def _deliver_once(self) -> None:
        positions = self.waiters.positions()
        streams: dict[Any, Any] = {**positions, self._bell: self._bell_at}
        self._blocked, self._is_rung = True, False
        try:
            async with translated():
                answer = await self._connection.blocking.xread(
                    streams, count=_BATCH, block=int(BLOCK_S * 1000)
                )
        finally:
            self._blocked = False
        for name, entries in answer:
            key = name.decode()
            if key == self._bell:
                self._bell_at = entries[-1][0]
            else:
                self.waiters.hand_out(key, positions[key], entries)
        await asyncio.sleep(0)  # let the readers come back before the next read

    async def _pass_over_foreign_keys(self) -> None:
        """One key that is no stream fails the read of all: end the waiting for it."""
        try:
            async with translated():
                for key in self.waiters.positions():
                    if await self._connection.commands.type(key) not in (b"stream", b"none"):
                        request_id = key.removeprefix(self._keys.journal_prefix)
                        log.error("request=%s: its journal was overwritten", request_id)
                        self.waiters.fail(key, partial(unknown_request, request_id))
                if await self._connection.commands.type(self._bell) not in (b"stream", b"none"):
                    self._bell, self._bell_at = self._keys.bell(uuid.uuid4().hex), b"0"
        except Unavailable:
            log.warning("journal reads wait: Redis does not answer")
        await asyncio.sleep(_RETRY_S)

    async def heartbeat_readers(self) -> None:
        """Tell Redis once a second which requests are being read, until cancelled."""
        while True:
            await asyncio.sleep(READER_HEARTBEAT_S)
            await self._extend_reader_deadlines(list(self._followed.values()))
            await self._fail_missing_journals(
                {request_id for request_id, _ in self._followed.values()}
            )

    async def _fail_missing_journals(self, request_ids: set[str]) -> None:
        """End waiting that would be for ever: the journal is gone, or has ended before its reader.

        A failover leaves neither where it was: the new master may lack the journal, and its clock
        may be behind, so that new entries come before those that a reader has.
        """
        if not request_ids:
            return
        names = list(request_ids)
        commands = self._connection.commands
        try:
            async with translated():
                scores = await commands.zmscore(self._keys.readers, names)
                for name in (n for n, score in zip(names, scores, strict=True) if score is None):
                    await self._end_over(name)
        except (Unavailable, Overloaded) as error:  # the next try is a second away
            log.warning("lost requests are not looked for: %s", error)

    async def _end_over(self, request_id: str) -> None:
        key = self._keys.journal(request_id)
        try:
            async with translated():
                last = await self._connection.commands.xrevrange(key, count=1)
        except WrongType:
            last = []
        if not last:
            self.waiters.fail(key, partial(unknown_request, request_id))
            return
        found = list(_readable(request_id, last))
        if not found:
            self.waiters.fail(key, partial(_damaged, request_id), behind=last[0][0])
        elif isinstance(found[0].event, pb.JournalEnd):
            self.waiters.fail(key, partial(_missed, request_id), behind=last[0][0])

    async def _extend_reader_deadlines(self, followed: list[tuple[str, int]]) -> None:
        """Postpone when requests are abandoned; `followed` are (id, orphan_timeout_ms)."""
        if not followed:
            return
        try:
            silent_ms = await self._clock.now_ms() + int(1000 * READER_GRACE_S)
            until = {
                request_id: silent_ms + orphan_timeout_ms
                for request_id, orphan_timeout_ms in followed
            }
            async with translated():
                await self._connection.commands.zadd(self._keys.readers, until, xx=True)
        except (Unavailable, Overloaded) as error:  # the next try is a second away
            log.warning("readers are not renewed: %s", error)


class JournalReader:
    """Reads one journal from its start. While it is open, the request counts as being read."""

    def __init__(
        self, hub: JournalHub, request_id: str, job: pb.Job, entries: list[RawEntry]
    ) -> None:
        self.job = job
        self._hub = hub
        self._request_id = request_id
        self._known = _Known(request_id)
        self._take(entries, is_history=True)
        next(self._events)  # the entry that holds the job

    async def next(self, wait_s: float) -> Event | None:
        """The next event after the job; None when no entry arrives within `wait_s`.

        Not to be called after a JournalEnd. Raises Unavailable, UnknownReference and RequestFailed.
        """
        while (event := next(self._events, None)) is None:
            if not await self._read_on(wait_s):
                return None
        return event

    def close(self) -> None:
        """Stop counting as a reader of the request."""
        self._hub._followed.pop(self, None)

    async def _read_on(self, wait_s: float) -> bool:
        """Fetch more entries; whether any arrived."""
        entries: list[RawEntry] = []
        if is_history := self._has_more:
            entries = await self._hub._part(self._request_id, f"({self._last.decode()}")
        if not entries:
            is_history = False
            entries = await self._hub._next(self._request_id, self._last, wait_s)
        if entries:
            self._take(entries, is_history=is_history)
        return bool(entries)

    def _take(self, entries: list[RawEntry], *, is_history: bool) -> None:
        self._last = entries[-1][0]
        self._has_more = is_history and len(entries) == _BATCH
        self._events = self._known.news(entries, is_history=is_history)


class _Known:
    """How far one reader of a journal is."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._tokens = 0
        self._is_begun = False

    def news(self, entries: Iterable[RawEntry], *, is_history: bool) -> Iterator[Event]:
        """The events in entries, without tokens that were seen before Redis lost their entry.

        Raises RequestFailed where the journal itself has a gap, Unavailable where the gap may be
        in what was read, and UnknownReference where another journal has taken the place of this.
        """
        for entry in _readable(self._request_id, entries):
            missing = entry.tokens_before - self._tokens
            is_token = isinstance(entry.event, pb.JournalTokens | pb.JournalEnd)
            if missing > 0 and is_token:
                raise _damaged(self._request_id) if is_history else _missed(self._request_id)
            if isinstance(entry.event, pb.JournalAccepted):
                if self._is_begun:
                    raise unknown_request(self._request_id)
                self._is_begun = True
            if isinstance(entry.event, pb.JournalTokens):
                _leave_out(entry.event, -missing)
                self._tokens += len(entry.event.ids)
            yield entry.event


def _readable(request_id: str, entries: Iterable[RawEntry]) -> Iterator[Entry]:
    for entry in entries:
        try:
            yield read_entry(entry)
        except Unreadable as error:
            log.error("request=%s entry=%s is left out: %s", request_id, entry[0].decode(), error)


def _leave_out(tokens: pb.JournalTokens, count: int) -> None:
    """Drop the first `count` tokens: seen before Redis lost their entry, and computed again."""
    if count > 0:
        del tokens.ids[:count]
        del tokens.logprobs[:count]


def _job(request_id: str, entries: list[RawEntry], owner: str) -> pb.Job:
    try:
        first = read_entry(entries[0]).event
    except Unreadable as error:
        raise RequestFailed(f"request {request_id!r} cannot be read: {error}") from None
    if not isinstance(first, pb.JournalAccepted):
        raise RequestFailed(f"request {request_id!r} cannot be read: its first entry is missing")
    if first.job.owner != owner:
        raise unknown_request(request_id)
    return first.job


def unknown_request(request_id: str) -> UnknownReference:
    """The error for an id that no request of the caller has."""
    return UnknownReference(
        f"request {request_id!r} is not known: it never was, or ended too long ago"
    )


def _missed(request_id: str) -> Unavailable:
    return Unavailable(
        f"entries of request {request_id!r} were lost before they were read; attach again"
    )


def _damaged(request_id: str) -> RequestFailed:
    return RequestFailed(f"entries are missing in the journal of request {request_id!r}")


def _draining() -> Unavailable:
    return Unavailable("this gateway is draining; attach again")
