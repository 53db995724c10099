"""The messages of a call that streams them, within the memory for messages."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from glm4v.errors import Overloaded
from glm4v.process.call_limits import CallLimits
from glm4v.process.call_slot import CallSlot
from glm4v.process.fair_semaphore import FairSemaphore

PROMPT_S = 0.05  # a message that its client has sent already arrives within this time
PATIENCE_S = 1.0  # and within this time if client or server are busy


class MessageStream:
    """Asks for each message with memory reserved for it.

    Once a message is asked for, the client may send the largest one at any time, and gRPC cannot
    take the question back. So memory for the largest one is reserved for as long as a stream is
    silent. Where that is not free, the next message is asked for when the handler works on none,
    and has to arrive in time, as the message of any other call. So streams that send one message
    after another are served in any number, and only silent ones are refused.

    The memory of a message is held until the next one is asked for.

    Attributes:
        idle: Set while the handler works on no message. One that works on a message while it asks
            for the next has to clear it.
    """

    def __init__(
        self,
        requests: AsyncIterator[Any],
        silent: CallSlot,
        arriving: CallSlot,
        reads: FairSemaphore,
        limits: CallLimits,
    ) -> None:
        self._requests = requests
        self._silent = silent
        self._arriving = arriving
        self._reads = reads
        self._limits = limits
        self.idle = asyncio.Event()
        self.idle.set()

    def __aiter__(self) -> "MessageStream":
        return self

    async def __anext__(self) -> Any:
        """The next message. Raises Overloaded, and what the call raises."""
        self._silent.reserve(0)
        self._arriving.reserve(0)
        try:
            self._silent.reserve(self._limits.max_message_bytes)
        except Overloaded:
            return await self._read_in_turn()
        message = await anext(self._requests)  # a client may be silent as long as it likes
        self._silent.reserve(size_of(message))
        return message

    def release(self) -> None:
        """Release all memory: the call has ended."""
        self._silent.release()
        self._arriving.release()

    async def _read_in_turn(self) -> Any:
        await self.idle.wait()  # what a handler works on has a deadline
        peer = self._arriving.peer
        async with self._reads.held(peer.client, peer.connection):
            read = asyncio.ensure_future(anext(self._requests))
            try:
                for timeout_s in (PROMPT_S, PATIENCE_S):
                    if await _is_done(read, timeout_s) or self._reserve_for_arrival():
                        break
                else:
                    raise _silent(f"it sent nothing for {PATIENCE_S:g} s")
            except BaseException:
                read.cancel()
                raise
        try:
            if not await _is_done(read, self._limits.receive_timeout_s):
                raise _silent(f"it sent nothing for {self._limits.receive_timeout_s:g} s")
        finally:
            read.cancel()
        message = read.result()
        self._arriving.reserve(size_of(message))
        return message

    def _reserve_for_arrival(self) -> bool:
        """Reserve memory for the largest message; whether there is some."""
        try:
            self._arriving.reserve(self._limits.max_message_bytes)
        except Overloaded:
            return False
        return True


def size_of(message: Any) -> int:
    """Bytes of a message, parsed or not."""
    return len(message) if isinstance(message, bytes) else int(message.ByteSize())


async def _is_done(read: "asyncio.Future[Any]", timeout_s: float) -> bool:
    await asyncio.wait([read], timeout=timeout_s)
    await asyncio.sleep(0)  # in a busy loop it may have ended together with the timeout
    return read.done()


def _silent(why: str) -> Overloaded:
    return Overloaded(
        f"the stream is silent, as too many others are ({why}); send the next request on a new one"
    )
