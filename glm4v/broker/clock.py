"""The one clock that deadlines, orphan timeouts and the times of a journal go by: that of Redis.

No clock of a gateway or worker is compared with that of another: they may be minutes apart.
"""

import time

from glm4v.broker.connection import Connection
from glm4v.broker.keys import Keys


class RedisClock:
    """Unix time in milliseconds, as the server tells it that keeps the queue."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._ahead_ms: int | None = None  # of this process' monotonic clock, when last asked

    async def now_ms(self) -> int:
        """Ask Redis. Raises Unavailable."""
        seconds, micros = await self._connection.run("time", [self._keys.open], [])
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        self._ahead_ms = now_ms - _monotonic_ms()
        return now_ms

    async def set(self) -> None:
        """Ask Redis unless it was asked before. Raises Unavailable."""
        if self._ahead_ms is None:
            await self.now_ms()

    def estimate_ms(self) -> int:
        """By what Redis said last, so that it can be told while Redis is away; after `set`."""
        assert self._ahead_ms is not None, "set() comes first"
        return self._ahead_ms + _monotonic_ms()


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
