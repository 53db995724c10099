"""Journal entries, and one read for all journals a gateway follows."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any

from glm4v.broker.clock import RedisClock
from glm4v.broker.connection import BLOCK_S, Connection, translated
from glm4v.broker.keys import Keys
from glm4v.errors import Overloaded, Unavailable, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb

log = logging.getLogger(__name__)

Event = pb.JournalAccepted | pb.JournalStage | pb.JournalTokens | pb.JournalEnd
_KINDS: dict[bytes, type[Event]] = {
    b"a": pb.JournalAccepted,
    b"s": pb.JournalStage,
    b"t": pb.JournalTokens,
    b"e": pb.JournalEnd,
}
_BATCH = 256  # entries of one journal in one read
TOUCH_S = 1.0
READER_SLACK_S = 4.0  # a reader may be silent for that long, beside its request's linger
_RETRY_S = 0.2

RawEntry = tuple[bytes, dict[bytes, bytes]]


def parse(entry: RawEntry) -> Event:
    """The message in an entry, with the time when Redis took it."""
    entry_id, fields = entry
    event = _KINDS[fields[b"k"]].FromString(fields[b"d"])
    at_ms, _ = _entry_order(entry_id)
    if not isinstance(event, pb.JournalAccepted):
        event.at_ms = at_ms
    elif event.job.timeout_ms:
        event.job.accepted_ms, event.job.deadline_ms = at_ms, at_ms + event.job.timeout_ms
    return event


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
        self._bell_at: str | bytes = "0"
        self._waiting: dict[str, list[tuple[bytes, asyncio.Future[list[RawEntry]]]]] = {}
        self._followed: dict[object, tuple[str, int]] = {}  # reader -> request id, linger_ms
        self._blocked = False
        self._registered = asyncio.Event()
        self._is_closed = False

    async def read(self, request_id: str) -> AsyncIterator[Event]:
        """All events of a request from its first on, up to and with its end.

        Raises UnknownReference when there is no such journal.
        """
        key = self._keys.journal(request_id)
        entries = await self._beginning(request_id, _BATCH)
        reader, known = object(), 0
        self._followed[reader] = (request_id, _job(entries).linger_ms)
        try:
            await self._touch([self._followed[reader]])
            while True:
                for entry in entries:
                    event = parse(entry)
                    if isinstance(event, pb.JournalTokens):
                        first = int(entry[1][b"n"]) - len(event.ids)
                        if first > known:
                            raise Unavailable(
                                f"tokens {known} to {first - 1} of request {request_id!r} were "
                                "lost before they were read; attach again"
                            )
                        _leave_out(event, known - first)
                        known += len(event.ids)
                    yield event
                    if isinstance(event, pb.JournalEnd):
                        return
                entries = await self._next(key, entries[-1][0])
        finally:
            del self._followed[reader]

    async def first(self, request_id: str) -> pb.Job:
        """What was asked. Raises UnknownReference."""
        return _job(await self._beginning(request_id, 1))

    async def _beginning(self, request_id: str, count: int) -> list[RawEntry]:
        async with translated():
            entries: list[RawEntry] = await self._connection.commands.xrange(
                self._keys.journal(request_id), count=count
            )
        if not entries:
            raise _unknown(request_id)
        await self._clock.set()
        return entries

    async def _next(self, key: str, after: bytes) -> list[RawEntry]:
        if self._is_closed:
            raise _draining()
        arrival: asyncio.Future[list[RawEntry]] = asyncio.get_running_loop().create_future()
        waiter = (after, arrival)
        self._waiting.setdefault(key, []).append(waiter)
        self._registered.set()
        try:
            if self._blocked:
                await self._ring()
            return await arrival  # ended by `run`, `close`, or by the caller's own deadline
        finally:
            if not arrival.done() or arrival.cancelled():
                self._forget(key, waiter)

    async def _ring(self) -> None:
        """Wake the read that is under way; unheard, it ends by itself within a second."""
        try:
            async with translated():
                await self._connection.commands.xadd(self._bell, {"r": 1}, maxlen=1)
        except (Unavailable, Overloaded) as error:
            log.info("the next read waits: %s", error)

    def close(self) -> None:
        """End all reading that waits, now and from now on, with Unavailable."""
        self._is_closed = True
        for waiters in self._waiting.values():
            for _, arrival in waiters:
                if not arrival.done():
                    arrival.set_exception(_draining())
        self._waiting.clear()

    def _forget(self, key: str, waiter: tuple[bytes, asyncio.Future[list[RawEntry]]]) -> None:
        waiters = self._waiting.get(key, [])
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            self._waiting.pop(key, None)

    async def run(self) -> None:
        """Deliver news until cancelled."""
        while True:
            if not self._waiting:
                self._registered.clear()
                await self._registered.wait()
            try:
                await self._deliver_once()
            except Unavailable:
                log.warning("journal reads wait: Redis does not answer")
                await asyncio.sleep(_RETRY_S)

    async def _deliver_once(self) -> None:
        streams: dict[Any, Any] = {
            key: min((after for after, _ in waiters), key=_entry_order)
            for key, waiters in self._waiting.items()
        }
        streams[self._bell] = self._bell_at
        self._blocked = True
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
                self._hand_out(key, entries)
        await asyncio.sleep(0)  # let the readers come back before the next read

    def _hand_out(self, key: str, entries: list[RawEntry]) -> None:
        still: list[tuple[bytes, asyncio.Future[list[RawEntry]]]] = []
        for after, arrival in self._waiting.pop(key, []):
            news = [e for e in entries if _entry_order(e[0]) > _entry_order(after)]
            if not news:
                still.append((after, arrival))
            elif not arrival.done():
                arrival.set_result(news)
        if still:
            self._waiting[key] = still

    async def keep_readers(self) -> None:
        """Tell Redis once a second which requests are being read, until cancelled."""
        while True:
            await asyncio.sleep(TOUCH_S)
            await self._touch(list(self._followed.values()))
            await self._end_lost({request_id for request_id, _ in self._followed.values()})

    async def _end_lost(self, request_ids: set[str]) -> None:
        """End the waiting for journals that are gone, as after a failover: nothing would come."""
        if not request_ids:
            return
        names = list(request_ids)
        commands = self._connection.commands
        try:
            async with translated():
                scores = await commands.zmscore(self._keys.readers, names)
                suspects = [n for n, score in zip(names, scores, strict=True) if score is None]
                lost = [n for n in suspects if not await commands.exists(self._keys.journal(n))]
        except (Unavailable, Overloaded) as error:  # the next try is a second away
            log.warning("lost requests are not looked for: %s", error)
            return
        for request_id in lost:
            for _, arrival in self._waiting.pop(self._keys.journal(request_id), []):
                if not arrival.done():
                    arrival.set_exception(_unknown(request_id))

    async def _touch(self, followed: list[tuple[str, int]]) -> None:
        """Move the time when requests are abandoned; `followed` are ids with their linger_ms."""
        if not followed:
            return
        try:
            silent_ms = await self._clock.now_ms() + int(1000 * READER_SLACK_S)
            until = {request_id: silent_ms + linger_ms for request_id, linger_ms in followed}
            async with translated():
                await self._connection.commands.zadd(self._keys.readers, until, xx=True)
                await self._connection.commands.expire(self._bell, 60)
        except (Unavailable, Overloaded) as error:  # the next try is a second away
            log.warning("readers are not renewed: %s", error)


def _leave_out(tokens: pb.JournalTokens, count: int) -> None:
    """Drop the first `count` tokens: seen before Redis lost their entry, and computed again."""
    if count > 0:
        del tokens.ids[:count]
        del tokens.logprobs[:count]


def _job(entries: list[RawEntry]) -> pb.Job:
    first = parse(entries[0])
    assert isinstance(first, pb.JournalAccepted)
    return first.job


def _unknown(request_id: str) -> UnknownReference:
    return UnknownReference(
        f"request {request_id!r} is not known: it never was, or ended too long ago"
    )


def _draining() -> Unavailable:
    return Unavailable("this gateway is draining; attach again")


def _entry_order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)
