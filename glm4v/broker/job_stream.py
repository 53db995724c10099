"""A queue of jobs: a stream with a consumer group, whose pending entries are leases.

When Redis comes back empty the queue is gone; the next claim creates it again.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from glm4v.broker.connection import BLOCK_S, Connection, QueueLost, map_redis_errors
from glm4v.broker.entries import Fields, Unreadable, check_format
from glm4v.broker.keys import MAX_DEAD_LETTERS, Keys, Queue, queue_parts
from glm4v.errors import Overloaded

log = logging.getLogger(__name__)

_SEEN_EVERY_S = 5.0
_FORGET_EVERY_S = 60.0
_FORGET_IDLE_S = 600.0  # a live worker claims once a second

_MAX_RAW = 2**16  # characters kept of an unreadable entry


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one entry of a queue, until it lapses.

    `entry` and `delivery_count`, together with the consumer's name, are the fencing token.
    """

    entry: str  # id in the stream
    delivery_count: int  # deliveries of this entry, up to and with this one

    @property
    def prior_attempts(self) -> int:
        """Workers that claimed the job before and did not finish it."""
        return self.delivery_count - 1


_L = TypeVar("_L", bound=Lease)
Claimed = tuple[bytes, dict[bytes, bytes], int]  # id, fields, delivery count


class JobStream(Generic[_L]):
    """The claims of one worker process on one queue.

    Args:
        read: Makes the lease on an entry from its id, fields and delivery count; raises Unreadable.
            An unreadable entry is moved to the dead letters.
    """

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        queue: Queue,
        lease_s: float,
        *,
        read: Callable[[str, Fields, int], _L],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._queue = queue
        self.name = keys.jobs(queue)
        self.group, _ = queue_parts(queue)
        self.consumer = f"{self.group}-{uuid.uuid4().hex[:12]}"
        self._read = read
        self._lease_s = lease_s
        self._lease_ms = int(lease_s * 1000)
        self._seen_at = -_SEEN_EVERY_S
        self._forgotten_at = self._redated_at = time.monotonic()

    async def ready(self) -> None:
        """Create the queue unless it exists."""
        await self._connection.ensure_group(self.name, self.group)
        await self.report()

    async def claim(self, capacity: int, wait_s: float = BLOCK_S) -> list[_L]:
        """Claim at most `capacity` new jobs; waits for up to `wait_s` when there are none."""
        try:
            await self.report()
            return await self._leases(await self._claim_new(capacity, wait_s))
        except QueueLost as error:
            await self._create_again(error)
            return []

    async def claim_expired(self, capacity: int) -> list[_L]:
        """Claim at most `capacity` jobs whose lease has lapsed."""
        try:
            await self.report()
            await self._forget_consumers()
            await self._redate()
            return await self._leases(await self._claim_lapsed(capacity))
        except QueueLost as error:
            await self._create_again(error)
            return []

    async def _leases(self, claimed: list[Claimed]) -> list[_L]:
        leases = []
        for entry_id, fields, delivery_count in claimed:
            entry = entry_id.decode()
            try:
                check_format(fields)
                leases.append(self._read(entry, fields, delivery_count))
            except Unreadable as error:
                log.error("%s entry=%s moved to the dead letters: %s", self.name, entry, error)
                await self._move_to_dead_letters(Lease(entry, delivery_count), fields, str(error))
        return leases

    async def _move_to_dead_letters(self, lease: Lease, fields: Fields, reason: str) -> None:
        await self._connection.run(
            "dead_letter",
            [self.name, self._keys.dead_letters],
            [*self.fencing(lease), raw(fields), reason, MAX_DEAD_LETTERS],
        )

    def fencing(self, lease: Lease) -> list[str | int]:
        """The first arguments of a script that checks the lease."""
        return [self.group, self.consumer, lease.entry, lease.delivery_count]

    async def _create_again(self, error: QueueLost) -> None:
        log.warning("%s: %s", self.name, error)
        self._seen_at = -_SEEN_EVERY_S
        await self.ready()

    async def report(self) -> None:
        """Tell gateways every 5 s that this queue has a worker."""
        now = time.monotonic()
        if now - self._seen_at < _SEEN_EVERY_S:
            return
        try:
            await self._connection.run("worker_seen", [self._keys.queues], [self._queue])
        except Overloaded as error:  # must not keep this worker from claiming
            log.warning("%s: worker not registered: %s", self.name, error)
        self._seen_at = now

    async def _forget_consumers(self) -> None:
        """Delete consumers of worker processes that are gone, once a minute."""
        now = time.monotonic()
        if now - self._forgotten_at < _FORGET_EVERY_S:
            return
        idle_ms = int(1000 * _FORGET_IDLE_S)
        count = await self._connection.run("forget_consumers", [self.name], [self.group, idle_ms])
        self._forgotten_at = now
        if count:
            log.info("%s: deleted %d idle consumers", self.name, count)

    async def _redate(self) -> None:
        """Once a lease: after Redis' clock was set back, old leases lapse one lease later."""
        now = time.monotonic()
        if now - self._redated_at >= self._lease_s:
            await self._connection.run("redate", [self.name], [self.group])
            self._redated_at = now

    async def _claim_new(self, capacity: int, wait_s: float) -> list[Claimed]:
        async with map_redis_errors():
            answer = await self._connection.blocking.xreadgroup(
                self.group,
                self.consumer,
                {self.name: ">"},
                count=capacity,
                block=int(wait_s * 1000) or None,  # 0 would block for ever
            )
        return [(entry, fields, 1) for _, entries in answer for entry, fields in entries]

    async def _claim_lapsed(self, capacity: int) -> list[Claimed]:
        async with map_redis_errors():
            # Selected by age: the oldest entries may all have live leases.
            commands: Any = self._connection.commands
            lapsed = await commands.xpending_range(
                self.name, self.group, "-", "+", capacity, idle=self._lease_ms
            )
            if not lapsed:
                return []
            deliveries = {each["message_id"]: each["times_delivered"] + 1 for each in lapsed}
            entries = await commands.xclaim(
                self.name, self.group, self.consumer, self._lease_ms, list(deliveries)
            )
        return [(entry, fields, deliveries[entry]) for entry, fields in entries if fields]


def raw(fields: Fields) -> str:
    """Fields of an entry as JSON for a person to read; bytes as Latin-1 characters."""
    shown = {name.decode("latin-1"): value.decode("latin-1") for name, value in fields.items()}
    return json.dumps(shown)[:_MAX_RAW]
