"""A semaphore that serves its owners in rotation."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairSemaphore:
    """Admits `count` at a time; an owner with a thousand waiters does not delay one with a single.

    Waiters of one owner are admitted in the order of arrival.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        # In the order in which owners are served next.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def held(self, owner: str) -> AsyncIterator[None]:
        """Hold the semaphore inside."""
        await self.acquire(owner)
        try:
            yield
        finally:
            self.release()

    async def acquire(self, owner: str) -> None:
        """Wait for a slot; `release` returns it."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(admitted)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Admit the first waiter of the next owner."""
        while self._waiting:
            owner = next(iter(self._waiting))
            queue = self._waiting.pop(owner)
            admitted = queue.popleft()
            if queue:
                self._waiting[owner] = queue  # last in the rotation
            if not admitted.done():
                admitted.set_result(None)
                return
        self._free += 1
