"""One blocking read for all journals that a gateway follows."""

import asyncio
import logging
import uuid
from functools import partial
from typing import Any

from glm4v.broker.clock import RedisClock
from glm4v.broker.connection import BLOCK_S, Connection, WrongType, map_redis_errors
from glm4v.broker.entries import RawEntry
from glm4v.broker.journal_reader import BATCH, JournalReader, job_of, unknown_request
from glm4v.broker.keys import Keys
from glm4v.broker.readers import Readers
from glm4v.broker.waiters import Waiters
from glm4v.errors import Overloaded, Unavailable
from glm4v.internal.v1 import journal_pb2 as pb

log = logging.getLogger(__name__)

_AT_ONCE = 2  # journals dispatched in one iteration of the event loop
_WAKEUP_TTL_S = 60
_RETRY_S = 0.2
_RETURN_S = 0.002  # for readers to want more: a wakeup costs Redis a disk write


class JournalHub:
    """Follows any number of journals with one blocking read.

    A slow reader has no buffer here: the journal itself is the queue, and a reader takes part in
    the read only while it waits. `run` and `readers.run` must be running. While Redis is away
    readers wait, at most until their own deadlines.
    """

    def __init__(self, connection: Connection, keys: Keys, clock: RedisClock) -> None:
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._wakeup = keys.wakeup(uuid.uuid4().hex)
        self._wakeup_read: bytes = b"0"  # the last entry of it that was read
        self._is_blocked = False  # a read is under way
        self._is_woken = False  # and was sent a wakeup
        self._is_closed = False
        self._wakeups: set[asyncio.Task[None]] = set()
        self.waiters = Waiters()
        self.readers = Readers(connection, keys, clock, self.waiters)

    async def follow(self, request_id: str, owner: str = "") -> JournalReader:
        """Start to read a journal; the caller closes the reader.

        Raises UnknownReference when `owner` has no such request, and RequestFailed when its first
        entry cannot be read.
        """
        entries = await self._read(request_id)
        job = _owned(job_of(request_id, entries), request_id, owner)
        stop_reading = self.readers.add(request_id, job.orphan_timeout_ms)
        try:
            await self.readers.extend_deadlines({request_id: job.orphan_timeout_ms})
            return JournalReader(
                request_id,
                job,
                entries,
                read_after=partial(self._read_after, request_id),
                wait_after=partial(self._wait_after, request_id),
                close=stop_reading,
            )
        except BaseException:
            stop_reading()
            raise

    async def job(self, request_id: str, owner: str = "") -> pb.Job:
        """The job of a request, without following it. Raises as `follow`."""
        return _owned(await self.first_job(request_id), request_id, owner)

    async def first_job(self, request_id: str) -> pb.Job:
        """The job of any owner's request. Raises as `follow`."""
        return job_of(request_id, await self._read(request_id, count=1))

    async def _read(self, request_id: str, count: int = BATCH) -> list[RawEntry]:
        """The first entries of a journal."""
        entries = await self._entries(request_id, "-", count)
        if not entries:
            raise unknown_request(request_id)
        await self._clock.ensure_read()
        return entries

    async def _read_after(self, request_id: str, after: bytes) -> list[RawEntry]:
        return await self._entries(request_id, f"({after.decode()}", BATCH)

    async def _entries(self, request_id: str, begin: str, count: int) -> list[RawEntry]:
        try:
            async with map_redis_errors():
                entries: list[RawEntry] = await self._connection.commands.xrange(
                    self._keys.journal(request_id), begin, count=count
                )
        except WrongType:
            raise unknown_request(request_id) from None
        return entries

    async def _wait_after(self, request_id: str, after: bytes, wait_s: float) -> list[RawEntry]:
        if self._is_closed:
            raise _draining()
        return await self.waiters.wait(self._keys.journal(request_id), after, self._wake, wait_s)

    def _wake(self) -> None:
        if self._is_blocked and not self._is_woken:
            self._is_woken = True
            wakeup = asyncio.ensure_future(self._send_wakeup())
            self._wakeups.add(wakeup)
            wakeup.add_done_callback(self._wakeups.discard)

    async def _send_wakeup(self) -> None:
        """End the read under way; without the wakeup it ends by itself within a second."""
        try:
            # In one transaction, so that no wakeup stream is left without a time to live.
            async with (
                map_redis_errors(),
                self._connection.commands.pipeline(transaction=True) as pipe,
            ):
                pipe.xadd(self._wakeup, {"r": 1}, maxlen=1)
                pipe.expire(self._wakeup, _WAKEUP_TTL_S)
                await pipe.execute()
        except (Unavailable, Overloaded) as error:
            log.info("could not send a wakeup: %s", error)

    def close(self) -> None:
        """Fail all waiting readers, now and from now on, with Unavailable."""
        self._is_closed = True
        self.waiters.fail_all(_draining)

    async def run(self) -> None:
        """Deliver new entries, until cancelled."""
        while True:
            if not self.waiters:
                self.waiters.registered.clear()
                await self.waiters.registered.wait()
            try:
                await self._deliver_once()
            except WrongType:
                await self._skip_foreign_keys()
            except Unavailable:
                log.warning("Redis unavailable: journal read retried in %s s", _RETRY_S)
                await asyncio.sleep(_RETRY_S)

    async def _deliver_once(self) -> None:
        positions = self.waiters.positions()
        streams: dict[Any, Any] = {**positions, self._wakeup: self._wakeup_read}
        self._is_blocked, self._is_woken = True, False
        try:
            async with map_redis_errors():
                answer = await self._connection.blocking.xread(
                    streams, count=BATCH, block=int(BLOCK_S * 1000)
                )
        finally:
            self._is_blocked = False
        for number, (name, entries) in enumerate(answer, start=1):
            key = name.decode()
            if key == self._wakeup:
                self._wakeup_read = entries[-1][0]
            else:
                self.waiters.dispatch(key, positions[key], entries)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # other tasks of the gateway run in between
        await asyncio.sleep(0)  # the readers take their entries
        await self.waiters.await_return(_unfinished(answer), _RETURN_S)

    async def _skip_foreign_keys(self) -> None:
        """One key that is not a stream fails the read of all: fail the readers of that key."""
        try:
            async with map_redis_errors():
                for key in self.waiters.positions():
                    if await self._connection.commands.type(key) not in (b"stream", b"none"):
                        request_id = key.removeprefix(self._keys.journal_prefix)
                        log.error("request=%s: its journal was overwritten", request_id)
                        self.waiters.fail(key, partial(unknown_request, request_id))
                if await self._connection.commands.type(self._wakeup) not in (b"stream", b"none"):
                    self._wakeup, self._wakeup_read = self._keys.wakeup(uuid.uuid4().hex), b"0"
        except Unavailable:
            log.warning("Redis unavailable: journal read retried in %s s", _RETRY_S)
        await asyncio.sleep(_RETRY_S)


def _unfinished(answer: Any) -> list[str]:
    """The journals of an answer that have no end yet: their readers will want more."""
    return [name.decode() for name, entries in answer if entries[-1][1].get(b"k") != b"e"]


def _owned(job: pb.Job, request_id: str, owner: str) -> pb.Job:
    if job.owner != owner:
        raise unknown_request(request_id)
    return job


def _draining() -> Unavailable:
    return Unavailable("server is shutting down; attach on another replica")
