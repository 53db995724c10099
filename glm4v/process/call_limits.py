"""Limits of the calls in progress, and the memory that their messages may take."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from glm4v.errors import Overloaded
from glm4v.process.peer import Peer

_CLIENT_SHARE = 2  # one client gets a half of each limit, or what one call needs


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What one server handles at once; health checks are not limited.

    A client is an owner of requests or, for anonymous callers, a host.

    Attributes:
        max_calls: Over all connections; half of them for one client.
        max_calls_per_connection: Further calls wait in the client or use another connection.
        max_message_bytes: Largest message.
        max_receiving_bytes: All messages that arrive or wait for a handler; half of it for one
            client. Calls that stream their messages have as much again while they are silent,
            and as much while they send.
        receive_timeout_s: How long a message may take to arrive.
        max_reads: Messages whose first bytes are read at once; clients take turns, half for one.
        max_handlers: Handlers that work on their first reply; clients take turns, half for one.
        large_bytes: Above this size, messages are parsed and handled one at a time for each
            client, two at a time in all: gRPC and the parser copy a message as a whole.
        large_bytes_per_s: Of the large messages that are handled for one client.
    """

    max_calls: int = 4096
    max_calls_per_connection: int = 128
    max_message_bytes: int = 4 * 2**20
    max_receiving_bytes: int = 256 * 2**20
    receive_timeout_s: float = 60.0
    max_reads: int = 4
    max_handlers: int = 8  # more of them delay the calls that gRPC has not handed over yet
    large_bytes: int = 8 * 2**20
    large_bytes_per_s: int = 32 * 2**20

    def shares(self, peer: Peer, total: int, least: int = 1) -> Iterator[tuple[str, str, int]]:
        """The accounts that a call of `peer` is charged to: key, name, limit out of `total`.

        Clients of a unix socket cannot be told apart and have no account of their own.
        """
        yield "", "all clients", max(total, least)
        if client := peer.client:
            whose = "this caller" if peer.owner else "this host"
            yield client, whose, max(total // _CLIENT_SHARE, least)


class CallCount:
    """The calls in progress."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._calls: Counter[str] = Counter()  # by client; "" counts all

    @property
    def total(self) -> int:
        """How many calls are in progress."""
        return self._calls[""]

    def enter(self, peer: Peer) -> None:
        """Count a call that begins; raises Overloaded when there are as many as may be."""
        for owner, whose, limit in self._limits.shares(peer, self._limits.max_calls):
            if self._calls[owner] >= limit:
                raise Overloaded(
                    f"{self._calls[owner]} calls of {whose} are in progress, at most {limit} are "
                    "allowed; retry later"
                )
        self._change(peer, 1)

    def leave(self, peer: Peer) -> None:
        """Count off a call that has ended."""
        self._change(peer, -1)

    def _change(self, peer: Peer, change: int) -> None:
        for owner, _, _ in self._limits.shares(peer, self._limits.max_calls):
            self._calls[owner] += change
            if not self._calls[owner]:
                del self._calls[owner]


class MessageMemory:
    """Memory for messages, in bytes."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._used: Counter[str] = Counter()  # by client; "" counts all

    def change(self, peer: Peer, before: int, after: int) -> None:
        """Reserve `after` in place of `before` bytes; raises Overloaded when they are not free."""
        limits = self._limits
        shares = list(limits.shares(peer, limits.max_receiving_bytes, limits.max_message_bytes))
        for owner, whose, limit in shares:
            used = self._used[owner] - before
            if after > before and used + after > limit:
                raise Overloaded(
                    f"messages of {whose} take {used} of {limit} bytes, and this one may take "
                    f"{after}; retry later"
                )
        for owner, _, _ in shares:
            self._used[owner] += after - before
            if not self._used[owner]:
                del self._used[owner]
