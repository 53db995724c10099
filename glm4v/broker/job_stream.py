"""A queue of jobs: a stream with a consumer group, whose pending entries are leases.

A Redis that comes back empty has no queue: whoever asks next makes it again.
"""

import logging
import time
import uuid
from typing import Any

from glm4v.broker.connection import BLOCK_S, Connection, QueueLost, translated

log = logging.getLogger(__name__)

_FORGET_EVERY_S = 60.0
_FORGET_IDLE_S = 600.0  # a worker asks once a second

Claimed = tuple[str, dict[bytes, bytes], int]  # entry id, fields, times it was claimed before


class JobStream:
    """Claims from one stream under a name of its own: one life, one name, the fencing token."""

    def __init__(self, connection: Connection, stream: str, group: str, lease_s: float) -> None:
        self._connection = connection
        self._stream = stream
        self._group = group
        self._lease_ms = int(lease_s * 1000)
        self._forgotten_at = time.monotonic()
        self.consumer = f"{group}-{uuid.uuid4().hex[:12]}"

    async def ready(self) -> None:
        """Make sure the queue exists."""
        await self._connection.ensure_group(self._stream, self._group)

    async def claim(self, room: int, wait_s: float = BLOCK_S) -> list[Claimed]:
        """New jobs, at most `room`; waits for up to `wait_s` when there are none."""
        try:
            return await self._claim(room, wait_s)
        except QueueLost as error:
            await self._make_again(error)
            return []

    async def take_over(self, room: int) -> list[Claimed]:
        """Jobs whose lease has lapsed, at most `room`."""
        try:
            await self._forget_consumers()
            return await self._take_over(room)
        except QueueLost as error:
            await self._make_again(error)
            return []

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

    async def _claim(self, room: int, wait_s: float) -> list[Claimed]:
        async with translated():
            answer = await self._connection.blocking.xreadgroup(
                self._group,
                self.consumer,
                {self._stream: ">"},
                count=room,
                block=int(wait_s * 1000) or None,  # 0 would mean for ever
            )
        return [(entry.decode(), fields, 0) for _, entries in answer for entry, fields in entries]

    async def _take_over(self, room: int) -> list[Claimed]:
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
        return [(entry.decode(), fields, claims[entry]) for entry, fields in entries if fields]
