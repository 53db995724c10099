"""A semaphore that serves clients in rotation, and the connections of each."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_Queues = dict[str, deque[asyncio.Future[None]]]  # by connection, the next one first


class FairSemaphore:
    """Admits `count` at a time, and half of them from one client.

    A client with a thousand waiters, over however many connections, does not delay one with a
    single one. The limit of one client does not apply to an unknown client, "". Waiters of one
    connection are admitted in the order of arrival.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._client_limit = max(1, count // 2)
        self._held: Counter[str] = Counter()  # by client
        self._waiting: dict[str, _Queues] = {}  # by client, the next one first

    @asynccontextmanager
    async def held(self, client: str, connection: str) -> AsyncIterator[None]:
        """Hold the semaphore inside."""
        await self.acquire(client, connection)
        try:
            yield
        finally:
            self.release(client)

    async def acquire(self, client: str, connection: str) -> None:
        """Wait for a slot; `release` returns it."""
        if self._free and self._is_below_limit(client):  # so are no others that wait
            self._take(client)
            return
        admitted = asyncio.get_running_loop().create_future()
        queues = self._waiting.setdefault(client, {})
        queues.setdefault(connection, deque()).append(admitted)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.release(client)
            raise

    def release(self, client: str) -> None:
        """Admit the first waiter of the next client that is below its limit."""
        self._free += 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        for other in list(self._waiting):
            if self._is_below_limit(other) and (admitted := self._pop(other)) is not None:
                self._take(other)
                admitted.set_result(None)
                return

    def _is_below_limit(self, client: str) -> bool:
        return not client or self._held[client] < self._client_limit

    def _take(self, client: str) -> None:
        self._free -= 1
        self._held[client] += 1

    def _pop(self, client: str) -> asyncio.Future[None] | None:
        """The next waiter of a client, which becomes the last in the rotation; None without any."""
        queues = self._waiting.pop(client)
        found = None
        while queues and found is None:
            connection = next(iter(queues))
            queue = queues.pop(connection)
            admitted = queue.popleft()
            found = None if admitted.done() else admitted  # cancelled
            if queue:
                queues[connection] = queue
        if queues:
            self._waiting[client] = queues
        return found
