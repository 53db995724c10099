"""The readers of one gateway: their heartbeat in Redis, and journals that have gone missing."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from glm4v.broker.clock import RedisClock
from glm4v.broker.connection import Connection, WrongType, map_redis_errors
from glm4v.broker.journal_reader import (
    damaged_journal,
    missed_entries,
    readable_entries,
    unknown_request,
)
from glm4v.broker.keys import Keys
from glm4v.broker.waiters import Waiters
from glm4v.errors import Overloaded, Unavailable
from glm4v.internal.v1 import journal_pb2 as pb

log = logging.getLogger(__name__)

READER_HEARTBEAT_S = 1.0
READER_GRACE_S = 4.0  # how long a reader may miss its heartbeat, beyond the orphan timeout


class Readers:
    """Knows which requests are being read. `run` must be running."""

    def __init__(
        self, connection: Connection, keys: Keys, clock: RedisClock, waiters: Waiters
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._waiters = waiters
        self._reading: dict[object, tuple[str, int]] = {}  # request id and orphan_timeout_ms

    def add(self, request_id: str, orphan_timeout_ms: int) -> Callable[[], object]:
        """Count one reader of a request; the result stops that."""
        reader = object()
        self._reading[reader] = (request_id, orphan_timeout_ms)
        return partial(self._reading.pop, reader, None)

    def __len__(self) -> int:
        return len(self._reading)

    async def run(self) -> None:
        """Send a heartbeat every second, until cancelled."""
        while True:
            await asyncio.sleep(READER_HEARTBEAT_S)
            reading = dict(self._reading.values())
            await self.extend_deadlines(reading)
            await self._fail_missing_journals(list(reading))

    async def extend_deadlines(self, reading: dict[str, int]) -> None:
        """Postpone the time at which requests are abandoned; request id → orphan_timeout_ms."""
        if not reading:
            return
        try:
            grace_ms = await self._clock.now_ms() + int(1000 * READER_GRACE_S)
            deadlines = {
                request_id: grace_ms + orphan_timeout_ms
                for request_id, orphan_timeout_ms in reading.items()
            }
            async with map_redis_errors():
                await self._connection.commands.zadd(
                    self._keys.reader_deadlines, deadlines, xx=True
                )
        except (Unavailable, Overloaded) as error:  # the next try is a second away
            log.warning("could not extend reader deadlines: %s", error)

    async def _fail_missing_journals(self, request_ids: list[str]) -> None:
        """Fail readers that would wait for ever: their journal is gone, or ended before them.

        A failover can do both: the new master may lack the journal, and its clock may be behind, so
        that new entries sort before those that a reader has.
        """
        if not request_ids:
            return
        commands = self._connection.commands
        try:
            async with map_redis_errors():
                scores = await commands.zmscore(self._keys.reader_deadlines, request_ids)
                for request_id, score in zip(request_ids, scores, strict=True):
                    if score is None:
                        await self._fail_if_over(request_id)
        except (Unavailable, Overloaded) as error:  # the next try is a second away
            log.warning("could not check for missing journals: %s", error)

    async def _fail_if_over(self, request_id: str) -> None:
        key = self._keys.journal(request_id)
        try:
            async with map_redis_errors():
                last = await self._connection.commands.xrevrange(key, count=1)
        except WrongType:
            last = []
        if not last:
            self._waiters.fail(key, partial(unknown_request, request_id))
            return
        found = list(readable_entries(request_id, last))
        if not found:
            self._waiters.fail(key, partial(damaged_journal, request_id), behind=last[0][0])
        elif isinstance(found[0].event, pb.JournalEnd):
            self._waiters.fail(key, partial(missed_entries, request_id), behind=last[0][0])
