"""What a call holds from its message to its first reply."""

import asyncio
from collections.abc import Callable
from functools import partial

from glm4v.process.call_limits import CallLimits, MessageMemory
from glm4v.process.fair_semaphore import FairSemaphore
from glm4v.process.peer import Peer

SMALL_BYTES = 64 * 2**10  # messages up to this size are not counted
_LARGE_AT_ONCE = 2  # large messages that are handled; one of each client


class HandlerSlots:
    """How many handlers work on their first reply: all of them, and those of large messages."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._all = FairSemaphore(limits.max_handlers)
        self._large = FairSemaphore(_LARGE_AT_ONCE)

    async def acquire(self, peer: Peer, size: int) -> Callable[[], None]:
        """Wait for a slot for a message of `size` bytes; the result releases it."""
        loop, client = asyncio.get_running_loop(), peer.client
        if size <= self._limits.large_bytes:
            await self._all.acquire(client, peer.connection)
            return partial(self._all.release, client)
        await self._large.acquire(client, peer.connection)
        next_at = loop.time() + size / self._limits.large_bytes_per_s
        try:
            await self._all.acquire(client, peer.connection)
        except BaseException:
            self._large.release(client)
            raise

        def release() -> None:
            self._all.release(client)
            loop.call_at(next_at, self._large.release, client)

        return release


class CallSlot:
    """The memory and the handler slot of one call, held up to its first reply."""

    def __init__(self, memory: MessageMemory, handlers: HandlerSlots, peer: Peer) -> None:
        self._memory, self._handlers, self.peer = memory, handlers, peer
        self._bytes = 0
        self._release: Callable[[], None] | None = None

    def reserve(self, size: int) -> None:
        """Reserve memory for a message of `size` bytes, in place of an earlier reservation."""
        size = size if size > SMALL_BYTES else 0
        if size == self._bytes:  # as at every reply but the first
            return
        self._memory.change(self.peer, self._bytes, size)
        self._bytes = size

    def reserve_at_least(self, size: int) -> None:
        """Reserve memory for a message that turned out to have `size` bytes."""
        if size > self._bytes:
            self.reserve(size)

    async def acquire(self) -> None:
        """Wait for a handler slot."""
        self._release = await self._handlers.acquire(self.peer, self._bytes)

    def release(self) -> None:
        """Release both; may be called again."""
        self.reserve(0)
        release, self._release = self._release, None
        if release is not None:
            release()
