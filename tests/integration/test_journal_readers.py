"""Readers of journals on a real Redis: late ones, long journals, clocks that go back."""

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest

from glm4v.broker import Connection, Keys
from glm4v.broker.clock import RedisClock
from glm4v.broker.entries import Event
from glm4v.broker.hub import JournalHub
from glm4v.errors import RequestFailed, Unavailable
from glm4v.internal.v1 import journal_pb2 as pb
from tests.journal_events import events_of

ATTEMPTS = 10


class Bench:
    """A hub that runs, and what workers write."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self.connection = connection
        self.keys = keys
        self.hub = JournalHub(connection, keys, RedisClock(connection, keys))

    async def write(self, name: str, kind: str, index: int, event: Event, at: str = "*") -> None:
        fields = {"k": kind, "n": index, "d": event.SerializeToString()}
        await self.connection.commands.xadd(self.keys.journal(name), fields, id=at)

    async def accept(self, name: str, at: str = "*") -> None:
        job = pb.Job(request_id=name, orphan_timeout_ms=10_000, timeout_ms=60_000)
        await self.write(name, "a", 0, pb.JournalAccepted(job=job), at)

    async def token(self, name: str, index: int, at: str = "*") -> None:
        """The token with this index, counted from 0."""
        await self.write(name, "t", index + 1, pb.JournalTokens(ids=[index]), at)

    async def end(self, name: str, index: int, at: str = "*") -> None:
        await self.write(name, "e", index, pb.JournalEnd(kind=pb.END_KIND_CANCELLED), at)


@pytest.fixture
async def bench(connection: Connection, keys: Keys) -> AsyncIterator[Bench]:
    bench = Bench(connection, keys)
    running = [asyncio.ensure_future(part()) for part in (bench.hub.run, bench.hub.readers.run)]
    yield bench
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def ids(events: list[Event]) -> list[int]:
    return [i for event in events if isinstance(event, pb.JournalTokens) for i in event.ids]


async def rest(reading: AsyncIterator[Event]) -> list[Event]:
    with anyio.fail_after(20):
        return [event async for event in reading]


@pytest.mark.parametrize("news", ["token", "end"])
async def test_who_begins_to_wait_while_others_are_read_for_misses_nothing(
    bench: Bench, news: str
) -> None:
    for attempt in range(ATTEMPTS):
        name = f"r{attempt}"
        await bench.accept(name)
        await bench.token(name, 0)
        slow = events_of(bench.hub.follow, name)
        seen = [await anext(slow), await anext(slow)]  # then its client is busy
        for index in range(1, 5):
            await bench.token(name, index)
        fast = asyncio.ensure_future(rest(events_of(bench.hub.follow, name)))
        await asyncio.sleep(0.02)  # it waits behind the last token now
        late = asyncio.ensure_future(rest(slow))
        count = 5
        if news == "token":
            await bench.token(name, count)
            count += 1
        await bench.end(name, count)
        assert ids(seen + await late) == ids(await fast) == list(range(count))


async def test_a_journal_of_many_entries_is_read_to_its_end(bench: Bench) -> None:
    await bench.accept("r")
    for index in range(600):
        await bench.token("r", index)
    await bench.end("r", 600)
    assert ids(await rest(events_of(bench.hub.follow, "r"))) == list(range(600))


@pytest.mark.parametrize("what", ["a token", "what stood before the end"])
async def test_a_journal_with_a_gap_is_no_shorter_answer(bench: Bench, what: str) -> None:
    await bench.accept("r")
    await bench.token("r", 0)
    if what == "a token":
        await bench.token("r", 2)
    await bench.end("r", 3)
    with pytest.raises(RequestFailed, match="entries are missing"):
        await rest(events_of(bench.hub.follow, "r"))


async def test_entries_before_those_a_reader_has_end_its_waiting(bench: Bench) -> None:
    """As behind a failover to a server whose clock is late."""
    await bench.accept("r", "1000-0")
    await bench.token("r", 0, "9000-0")
    reading = events_of(bench.hub.follow, "r")
    seen = [await anext(reading), await anext(reading)]
    waiting = asyncio.ensure_future(rest(reading))
    await asyncio.sleep(0.1)
    commands, key = bench.connection.commands, bench.keys.journal("r")
    first = (await commands.xrange(key, count=1))[0]
    await commands.delete(key)
    await commands.xadd(key, first[1], id=first[0])
    await bench.token("r", 0, "2000-0")
    await bench.end("r", 1, "3000-0")
    with pytest.raises(Unavailable, match="attach again"):
        await waiting
    assert ids(seen) == ids(await rest(events_of(bench.hub.follow, "r"))) == [0]


async def test_a_wakeup_stream_has_a_time_to_live(bench: Bench) -> None:
    await bench.hub._send_wakeup()
    commands = bench.connection.commands
    [wakeup] = await commands.keys(bench.keys.wakeup("*"))
    assert 0 < await commands.ttl(wakeup) <= 60


async def test_a_reader_that_waited_in_vain_misses_nothing_afterwards(bench: Bench) -> None:
    await bench.accept("r")
    reader = await bench.hub.follow("r")
    for index in range(3):
        assert await reader.next(0.01) is None
        await bench.token("r", index)
        with anyio.fail_after(20):
            event = await reader.next(20)
        assert isinstance(event, pb.JournalTokens)
        assert list(event.ids) == [index]
    reader.close()
