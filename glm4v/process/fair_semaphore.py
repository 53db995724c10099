"""A semaphore that serves hosts in rotation, and the connections of each."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_Queues = dict[str, deque[asyncio.Future[None]]]  # by connection, the next one first


class FairSemaphore:
    """Admits `count` at a time, and half of them from one host.

    A host with a thousand waiters, over however many connections, does not delay one with a single.
    The limit of one host does not apply to an unknown host, "". Waiters of one connection are
    admitted in the order of arrival.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._host_limit = max(1, count // 2)
        self._held: Counter[str] = Counter()  # by host
        self._waiting: dict[str, _Queues] = {}  # by host, the next one first

    @asynccontextmanager
    async def held(self, host: str, connection: str) -> AsyncIterator[None]:
        """Hold the semaphore inside."""
        await self.acquire(host, connection)
        try:
            yield
        finally:
            self.release(host)

    async def acquire(self, host: str, connection: str) -> None:
        """Wait for a slot; `release` returns it."""
        if self._free and self._is_below_limit(host):  # so are no others that wait
            self._take(host)
            return
        admitted = asyncio.get_running_loop().create_future()
        queues = self._waiting.setdefault(host, {})
        queues.setdefault(connection, deque()).append(admitted)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.release(host)
            raise

    def release(self, host: str) -> None:
        """Admit the first waiter of the next host that is below its limit."""
        self._free += 1
        self._held[host] -= 1
        if not self._held[host]:
            del self._held[host]
        for other in list(self._waiting):
            if self._is_below_limit(other) and (admitted := self._pop(other)) is not None:
                self._take(other)
                admitted.set_result(None)
                return

    def _is_below_limit(self, host: str) -> bool:
        return not host or self._held[host] < self._host_limit

    def _take(self, host: str) -> None:
        self._free -= 1
        self._held[host] += 1

    def _pop(self, host: str) -> asyncio.Future[None] | None:
        """The next waiter of a host, which becomes the last in the rotation; None without any."""
        queues = self._waiting.pop(host)
        found = None
        while queues and found is None:
            connection = next(iter(queues))
            queue = queues.pop(connection)
            admitted = queue.popleft()
            found = None if admitted.done() else admitted  # cancelled
            if queue:
                queues[connection] = queue
        if queues:
            self._waiting[host] = queues
        return found
