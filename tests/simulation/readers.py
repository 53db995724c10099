"""A gateway's reading of journals, one step at a time: one read for all, and who gets what."""

import asyncio

from glm4v.broker import Connection, Keys
from glm4v.broker.clock import RedisClock
from glm4v.broker.entries import Event, RawEntry
from glm4v.broker.hub import JournalHub
from glm4v.errors import Glm4vError
from glm4v.internal.v1 import journal_pb2 as pb
from tests.journal_events import events_of


class Violation(Exception):
    """A promise was broken."""


class _Hub(JournalHub):
    """Knows which of its readers wait."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        super().__init__(connection, keys, RedisClock(connection, keys))
        self.waiting: set[Reader] = set()
        self.of_task: dict[object, Reader] = {}

    async def _wait_after(self, request_id: str, after: bytes, wait_s: float) -> list[RawEntry]:
        reader = self.of_task[asyncio.current_task()]
        self.waiting.add(reader)
        try:
            return await super()._wait_after(request_id, after, wait_s)
        finally:
            self.waiting.discard(reader)


class Reader:
    """A client that takes one event whenever the schedule lets it."""

    def __init__(self, hub: _Hub, request_id: str) -> None:
        self.request_id = request_id
        self.events: list[Event] = []
        self.error: Glm4vError | None = None
        self._hub = hub
        self._turns = asyncio.Semaphore(0)
        self._is_busy = False  # with its client
        self._task = asyncio.ensure_future(self._read())
        hub.of_task[self._task] = self

    @property
    def is_done(self) -> bool:
        """Whether it has read to an end."""
        return self._task.done()

    async def _read(self) -> None:
        try:
            async for event in events_of(self._hub.follow, self.request_id):
                self.events.append(event)
                self._is_busy = True
                await self._turns.acquire()
        except Glm4vError as error:
            self.error = error

    async def settle(self) -> None:
        """Until it has to wait for somebody."""
        while not (self._is_busy or self.is_done or self in self._hub.waiting):  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def advance(self) -> None:
        """Its client is ready for the next event."""
        if self._is_busy:
            self._is_busy = False
            self._turns.release()
        await self.settle()

    async def stop(self) -> None:
        """Whatever it waits for."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def check(self, entries: list[Event]) -> None:
        """Raise Violation unless it saw all tokens and the end of a journal."""
        if self.error is not None:
            raise Violation(f"a reader of {self.request_id} was told: {self.error}")
        seen, there = _tokens(self.events), _tokens(entries)
        if seen != there or not self.is_done or not isinstance(self.events[-1], pb.JournalEnd):
            raise Violation(f"a reader of {self.request_id} saw {seen}, the journal has {there}")


def _tokens(events: list[Event]) -> list[int]:
    return [i for event in events if isinstance(event, pb.JournalTokens) for i in event.ids]


class Gateway:
    """Reads for all who wait. Between the two halves of a read more of them may begin to wait."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._hub = _Hub(connection, keys)
        self._positions: dict[str, bytes] = {}

    async def open(self, request_id: str) -> Reader:
        """A new reader of a request."""
        reader = Reader(self._hub, request_id)
        await reader.settle()
        return reader

    async def advance(self) -> None:
        """The next half of a read: where it begins, then what it brings."""
        if not self._positions:
            self._positions = self._hub.waiters.positions()
            return
        positions, self._positions = self._positions, {}
        answer = await self._connection.commands.xread(dict(positions), count=100)
        for name, entries in answer:
            key = name.decode()
            self._hub.waiters.dispatch(key, positions[key], entries)
        await asyncio.sleep(0)
