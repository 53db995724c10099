"""Ends requests whose deadline has passed, and requests that no client reads any more.

Every gateway sweeps; the first terminal event wins. Times are those of Redis.

Gateways send a heartbeat for each request that a client reads. During a Redis outage, or while a
gateway is suspended, they cannot. So no request counts as unread until Redis has been available
without interruption for as long as every reader needs to send a heartbeat again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from glm4v.broker.clock import RedisClock
from glm4v.broker.connection import Connection, map_redis_errors
from glm4v.broker.keys import Keys
from glm4v.broker.readers import READER_HEARTBEAT_S
from glm4v.broker.redis_url import CALL_TIMEOUT_S
from glm4v.broker.unserved import UnservedQueues
from glm4v.errors import Overloaded, RequestFailed, Unavailable, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb

log = logging.getLogger(__name__)

_SWEEP_S = 1.0
_BATCH = 100
MAX_SWEEP_GAP_S = 3.0  # between two sweeps; below READER_GRACE_S, so that no outage goes unnoticed
_PRUNE_EVERY_S = 60.0
# A heartbeat may have been stuck in a call for that long.
STABLE_FOR_S = CALL_TIMEOUT_S + 2 * READER_HEARTBEAT_S


class Sweeper:
    """Ends requests of all models of a namespace.

    Args:
        first_job: The job of a request, from its journal.
        close: Ends a request. Both raise UnknownReference when there is no such journal.
    """

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        clock: RedisClock,
        *,
        first_job: Callable[[str], Awaitable[pb.Job]],
        close: Callable[[str, pb.JournalEnd], Awaitable[bool]],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._first_job = first_job
        self._close = close
        self._unserved = UnservedQueues(connection, keys)
        self._swept_ms = 0
        self._stable_from_ms = 0
        self._pruned_ms = 0

    async def run(self) -> None:
        """Sweep every second, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                await self.sweep()
            except (Unavailable, Overloaded) as error:
                log.warning("sweep retried in %s s: %s", _SWEEP_S, error)
                self._swept_ms = 0

    async def sweep(self) -> None:
        """Sweep once. Raises Unavailable and Overloaded."""
        now_ms = await self._clock.now_ms()
        async with map_redis_errors():
            # Changes nothing, and fails whenever a heartbeat would fail.
            await self._connection.commands.zadd(self._keys.reader_deadlines, {"": 0}, xx=True)
        if not 0 <= now_ms - self._swept_ms < 1000 * MAX_SWEEP_GAP_S:
            self._stable_from_ms = now_ms
        self._swept_ms = now_ms
        await self._end_overdue(self._keys.open_requests, pb.END_KIND_EXPIRED, now_ms)
        if now_ms - self._stable_from_ms >= 1000 * STABLE_FOR_S:
            await self._end_overdue(self._keys.reader_deadlines, pb.END_KIND_ABANDONED, now_ms)
        if not 0 <= now_ms - self._pruned_ms < 1000 * _PRUNE_EVERY_S:  # the clock may go back
            await self._prune()
            self._pruned_ms = now_ms

    async def _prune(self) -> None:
        count = await self._connection.run("release_lost", [self._keys.open_requests], [])
        if count:
            log.error("%d requests that are not open were still counted or pinned an image", count)
        await self._unserved.prune()

    async def _end_overdue(self, key: str, kind: "pb.EndKind.ValueType", now_ms: int) -> None:
        async with map_redis_errors():
            overdue = await self._connection.commands.zrangebyscore(
                key, "-inf", now_ms, start=0, num=_BATCH
            )
        for member in overdue:
            request_id = member.decode(errors="replace")
            if request_id.encode() != member:  # foreign: request ids are UTF-8
                async with map_redis_errors():
                    await self._connection.commands.zrem(key, member)
                continue
            end = pb.JournalEnd(kind=kind, at_ms=now_ms)
            if kind == pb.END_KIND_EXPIRED:
                end.message = await self._reason(request_id, now_ms)
            try:
                await self._close(request_id, end)
            except UnknownReference:
                log.info("request=%s was listed as open and has no journal", request_id)

    async def _reason(self, request_id: str, now_ms: int) -> str:
        try:
            job = await self._first_job(request_id)
        except (UnknownReference, RequestFailed):
            return ""
        return await self._unserved.reason(job, now_ms)
