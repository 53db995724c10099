"""Ends what is overdue: requests behind their deadline, and those that nobody reads any more.

Every gateway sweeps; the first terminal event wins. Times are those of Redis.

A request's readers tell Redis once a second that they are there. While Redis is away, or they are
suspended, they cannot; so nobody is found missing before Redis has answered without a break for so
long that all of them must have told it again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from glm4v.broker.clock import RedisClock
from glm4v.broker.connection import Connection, translated
from glm4v.broker.journal import READER_HEARTBEAT_S
from glm4v.broker.keys import Keys
from glm4v.broker.redis_url import CALL_TIMEOUT_S
from glm4v.errors import Overloaded, Unavailable, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb

log = logging.getLogger(__name__)

_SWEEP_S = 1.0
_BATCH = 100
MAX_SWEEP_GAP_S = 3.0  # between two sweeps: shorter than READER_GRACE_S lets readers be silent
_UNPIN_EVERY_S = 60.0
STABLE_FOR_S = (
    CALL_TIMEOUT_S + 2 * READER_HEARTBEAT_S
)  # a reader's call may have been stuck for that long


class Sweeper:
    """`close` ends a request; it raises UnknownReference when there is no such journal."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        clock: RedisClock,
        close: Callable[[str, pb.JournalEnd], Awaitable[bool]],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._close = close
        self._swept_ms = 0
        self._steady_from_ms = 0
        self._unpinned_ms = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                await self._sweep()
            except (Unavailable, Overloaded) as error:
                log.warning("sweep waits: %s", error)
                self._swept_ms = 0

    async def _sweep(self) -> None:
        now_ms = await self._clock.now_ms()
        async with translated():
            # Changes nothing, and is refused whenever readers cannot tell that they are there.
            await self._connection.commands.zadd(self._keys.readers, {"": 0}, xx=True)
        if not 0 <= now_ms - self._swept_ms < 1000 * MAX_SWEEP_GAP_S:
            self._steady_from_ms = now_ms
        self._swept_ms = now_ms
        await self._end(self._keys.open, pb.END_KIND_EXPIRED, now_ms)
        if now_ms - self._steady_from_ms >= 1000 * STABLE_FOR_S:
            await self._end(self._keys.readers, pb.END_KIND_ABANDONED, now_ms)
        if not 0 <= now_ms - self._unpinned_ms < 1000 * _UNPIN_EVERY_S:  # clocks are set back
            count = await self._connection.run("unpin_lost", [self._keys.open], [])
            self._unpinned_ms = now_ms
            if count:
                log.error("%d requests held an image and were not open", count)

    async def _end(self, key: str, kind: "pb.EndKind.ValueType", now_ms: int) -> None:
        async with translated():
            overdue = await self._connection.commands.zrangebyscore(
                key, "-inf", now_ms, start=0, num=_BATCH
            )
        for member in overdue:
            request_id = member.decode(errors="replace")
            if request_id.encode() != member:  # no request has such a name
                async with translated():
                    await self._connection.commands.zrem(key, member)
                continue
            try:
                await self._close(request_id, pb.JournalEnd(kind=kind, at_ms=now_ms))
            except UnknownReference:
                log.info("request=%s was listed as open without a journal", request_id)
