"""A queue of jobs: a stream with a consumer group, whose pending entries are leases.

A Redis that comes back empty has no queue: whoever asks next makes it again.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from glm4v.broker.connection import BLOCK_S, Connection, QueueLost, translated
from glm4v.broker.entries import Fields, Unreadable, check_format
from glm4v.broker.keys import MAX_DEAD

log = logging.getLogger(__name__)

_FORGET_EVERY_S = 60.0
_FORGET_IDLE_S = 600.0  # a worker asks once a second

_MAX_RAW = 2**16  # characters kept of an entry that cannot be read

_Lease = TypeVar("_Lease")
_Claimed = tuple[bytes, dict[bytes, bytes], int]  # id, fields, times it was claimed before


class JobStream(Generic[_Lease]):
    """Claims from one stream under a name of its own: one life, one name, the fencing token.

    Args:
        read: The lease on an entry, from its id, fields and the times it was claimed before; raises
            Unreadable. An entry that cannot be read is set aside, in the stream `dead`.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        group: str,
        lease_s: float,
        *,
        dead: str,
        read: Callable[[str, Fields, int], _Lease],
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._group = group
        self._dead = dead
        self._read = read
        self._lease_s = lease_s
        self._lease_ms = int(lease_s * 1000)
        self._forgotten_at = self._redated_at = time.monotonic()
        self.consumer = f"{group}-{uuid.uuid4().hex[:12]}"

    async def ready(self) -> None:
        """Make sure the queue exists."""
        await self._connection.ensure_group(self._stream, self._group)

    async def claim(self, room: int, wait_s: float = BLOCK_S) -> list[_Lease]:
        """New jobs, at most `room`; waits for up to `wait_s` when there are none."""
        try:
            return await self._leases(await self._claim(room, wait_s))
        except QueueLost as error:
            await self._make_again(error)
            return []

    async def claim_expired(self, room: int) -> list[_Lease]:
        """Jobs whose lease has lapsed, at most `room`."""
        try:
            await self._forget_consumers()
            await self._redate()
            return await self._leases(await self._take_over(room))
        except QueueLost as error:
            await self._make_again(error)
            return []

    async def _leases(self, claimed: list[_Claimed]) -> list[_Lease]:
        leases = []
        for entry_id, fields, claims in claimed:
            entry = entry_id.decode()
            try:
                check_format(fields)
                leases.append(self._read(entry, fields, claims))
            except Unreadable as error:
                log.error("%s entry=%s is set aside: %s", self._stream, entry, error)
                await self._set_aside(entry, fields, claims, str(error))
        return leases

    async def _set_aside(self, entry: str, fields: Fields, claims: int, reason: str) -> None:
        await self._connection.run(
            "set_aside",
            [self._stream, self._dead],
            [self._group, self.consumer, entry, claims, raw(fields), reason, MAX_DEAD],
        )

    async def _make_again(self, error: QueueLost) -> None:
        log.warning("%s: %s", self._stream, error)
        await self.ready()

    async def _forget_consumers(self) -> None:
        """Now and then: every worker life leaves a name in the group."""
        now = time.monotonic()
        if now - self._forgotten_at < _FORGET_EVERY_S:
            return
        idle_ms = int(1000 * _FORGET_IDLE_S)
        count = await self._connection.run(
            "forget_consumers", [self._stream], [self._group, idle_ms]
        )
        self._forgotten_at = now
        if count:
            log.info("%s: %d workers that are gone were forgotten", self._stream, count)

    async def _redate(self) -> None:
        """Once a lease: where the clock of Redis was set back, old leases lapse one lease later."""
        now = time.monotonic()
        if now - self._redated_at >= self._lease_s:
            await self._connection.run("redate", [self._stream], [self._group])
            self._redated_at = now

    async def _claim(self, room: int, wait_s: float) -> list[_Claimed]:
        async with translated():
            answer = await self._connection.blocking.xreadgroup(
                self._group,
                self.consumer,
                {self._stream: ">"},
                count=room,
                block=int(wait_s * 1000) or None,  # 0 would mean for ever
            )
        return [(entry, fields, 0) for _, entries in answer for entry, fields in entries]

    async def _take_over(self, room: int) -> list[_Claimed]:
        async with translated():
            # Asked for by age: a look at the oldest would not see lapsed ones behind live ones.
            commands: Any = self._connection.commands
            lapsed = await commands.xpending_range(
                self._stream, self._group, "-", "+", room, idle=self._lease_ms
            )
            if not lapsed:
                return []
            claims = {each["message_id"]: each["times_delivered"] for each in lapsed}
            entries = await commands.xclaim(
                self._stream, self._group, self.consumer, self._lease_ms, list(claims)
            )
        return [(entry, fields, claims[entry]) for entry, fields in entries if fields]


def raw(fields: Fields) -> str:
    """Fields of an entry as JSON, bytes as the characters of the same numbers, for a person."""
    shown = {name.decode("latin-1"): value.decode("latin-1") for name, value in fields.items()}
    return json.dumps(shown)[:_MAX_RAW]
