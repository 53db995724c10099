"""Limits of what is under way, and the room that messages take."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from glm4v.errors import Overloaded
from glm4v.process.fair_semaphore import FairSemaphore

SMALL_BYTES = 64 * 2**10  # a message up to this needs no room
_HOST_SHARE = 2  # one host has a half of what there is at most, or what one call needs


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What one process serves at once; health is outside of all of it.

    Attributes:
        max_calls: Over all connections; a host has at most half of them.
        max_calls_per_connection: More wait at their client, or come over another connection.
        max_message_bytes: The largest message.
        max_receiving_bytes: Of all messages that arrive, or wait until they are handled; a host has
            at most half of it.
        receive_timeout_s: Seconds in which a message has to arrive.
        max_reads: Messages that begin to arrive; others wait at their clients, in rotation too.
        max_handlers: That work on their first reply; others wait, connections in rotation.
    """

    max_calls: int = 4096
    max_calls_per_connection: int = 512
    max_message_bytes: int = 4 * 2**20
    max_receiving_bytes: int = 256 * 2**20
    receive_timeout_s: float = 60.0
    max_reads: int = 4
    max_handlers: int = 32

    def shares(self, peer: str, total: int, least: int = 1) -> Iterator[tuple[str, str, int]]:
        """Who a call of `peer` counts for, in words, and how much of `total` they may have.

        A socket in the file system does not tell callers apart.
        """
        yield "", "all callers", max(total, least)
        if not peer.startswith("unix"):
            yield peer.rpartition(":")[0], "this host", max(total // _HOST_SHARE, least)


class MessageMemory:
    """Memory for messages."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._used: Counter[str] = Counter()  # by host, and of all

    def change(self, peer: str, before: int, after: int) -> None:
        """Raises Overloaded when there is no room for `after` in place of `before` bytes."""
        limits = self._limits
        shares = list(limits.shares(peer, limits.max_receiving_bytes, limits.max_message_bytes))
        for owner, whose, limit in shares:
            used = self._used[owner] - before
            if after > before and used + after > limit:
                raise Overloaded(
                    f"messages of {whose} take {used} bytes of {limit}, and this one may take "
                    f"{after}; send it later"
                )
        for owner, _, _ in shares:
            self._used[owner] += after - before
            if not self._used[owner]:
                del self._used[owner]


class CallSlot:
    """The room and the turn of one call, up to its first reply."""

    def __init__(self, room: MessageMemory, handlers: FairSemaphore, peer: str) -> None:
        self._room, self._handlers, self.peer = room, handlers, peer
        self._bytes = 0
        self._has_turn = False

    def reserve(self, size: int) -> None:
        """Have room for a message of this size, instead of what was reserved before."""
        size = size if size > SMALL_BYTES else 0
        self._room.change(self.peer, self._bytes, size)
        self._bytes = size

    async def take_turn(self) -> None:
        """Wait until others have had theirs."""
        await self._handlers.acquire(self.peer)
        self._has_turn = True

    def give_back(self) -> None:
        """Once is enough."""
        self.reserve(0)
        if self._has_turn:
            self._has_turn = False
            self._handlers.release()
