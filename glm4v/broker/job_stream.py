"""A queue of jobs: a stream with a consumer group, whose pending entries are leases."""

import uuid
from typing import Any

from glm4v.broker.connection import BLOCK_S, Connection, translated

Claimed = tuple[str, dict[bytes, bytes], int]  # entry id, fields, times it was claimed before


class JobStream:
    """Claims from one stream under a name of its own: one life, one name, the fencing token."""

    def __init__(self, connection: Connection, stream: str, group: str, lease_s: float) -> None:
        self._connection = connection
        self._stream = stream
        self._group = group
        self._lease_ms = int(lease_s * 1000)
        self.consumer = f"{group}-{uuid.uuid4().hex[:12]}"

    async def ready(self) -> None:
        """Make sure the queue exists."""
        await self._connection.ensure_group(self._stream, self._group)

    async def claim(self, room: int, wait_s: float = BLOCK_S) -> list[Claimed]:
        """New jobs, at most `room`; waits for up to `wait_s` when there are none."""
        async with translated():
            answer = await self._connection.blocking.xreadgroup(
                self._group,
                self.consumer,
                {self._stream: ">"},
                count=room,
                block=int(wait_s * 1000) or None,  # 0 would mean for ever
            )
        return [(entry.decode(), fields, 0) for _, entries in answer for entry, fields in entries]

    async def take_over(self, room: int) -> list[Claimed]:
        """Jobs whose lease has lapsed, at most `room`."""
        async with translated():
            commands: Any = self._connection.commands
            # The answer has two elements before Redis 7 and three from then on.
            entries = (
                await commands.xautoclaim(
                    self._stream, self._group, self.consumer, self._lease_ms, count=room
                )
            )[1]
            claimed = []
            for entry, fields in entries:
                pending = await commands.xpending_range(self._stream, self._group, entry, entry, 1)
                if fields and pending:
                    claimed.append((entry.decode(), fields, pending[0]["times_delivered"] - 1))
        return claimed
