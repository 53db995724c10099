"""The clock of Redis, by which deadlines, orphan timeouts and journal times go.

Clocks of gateways and workers are never compared with each other; they may be minutes apart.
"""

import time

from glm4v.broker.connection import Connection
from glm4v.broker.keys import Keys


class RedisClock:
    """Unix time in milliseconds of the server that holds the queues."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._offset_ms: int | None = None  # from this process's monotonic clock, at the last read

    async def now_ms(self) -> int:
        """Read the clock. Raises Unavailable."""
        seconds, micros = await self._connection.run("time", [self._keys.open_requests], [])
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        self._offset_ms = now_ms - _monotonic_ms()
        return now_ms

    async def ensure_read(self) -> None:
        """Read the clock unless it was read before. Raises Unavailable."""
        if self._offset_ms is None:
            await self.now_ms()

    def estimate_ms(self) -> int:
        """The time by the last reading, also while Redis is away; `ensure_read` comes first."""
        assert self._offset_ms is not None, "ensure_read() comes first"
        return self._offset_ms + _monotonic_ms()


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
