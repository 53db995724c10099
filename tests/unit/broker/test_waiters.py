"""Who gets what of one read for many readers."""

import asyncio

import pytest

from glm4v.broker.entries import RawEntry
from glm4v.broker.waiters import Waiters


def entry(number: int) -> RawEntry:
    return f"{number}-0".encode(), {}


def at(number: int) -> bytes:
    return f"{number}-0".encode()


@pytest.fixture
def waiters() -> Waiters:
    return Waiters()


async def waiting(
    waiters: Waiters, after: int, wait_s: float = 60
) -> "asyncio.Task[list[RawEntry]]":
    task = asyncio.ensure_future(waiters.wait("j", at(after), lambda: None, wait_s))
    await asyncio.sleep(0)
    return task


async def test_a_read_begins_behind_the_one_who_is_furthest_behind(waiters: Waiters) -> None:
    tasks = [await waiting(waiters, after) for after in (10, 9, 100)]
    assert waiters.positions() == {"j": at(9)}
    waiters.dispatch("j", at(9), [entry(10), entry(11)])
    assert await tasks[1] == [entry(10), entry(11)]
    assert await tasks[0] == [entry(11)]
    assert not tasks[2].done(), "nothing is news to it"
    assert waiters.positions() == {"j": at(100)}
    tasks[2].cancel()


async def test_who_came_during_a_read_and_is_behind_it_waits_for_the_next(waiters: Waiters) -> None:
    ahead = await waiting(waiters, 5)
    positions = waiters.positions()
    behind, level = await waiting(waiters, 3), await waiting(waiters, 5)
    waiters.dispatch("j", positions["j"], [entry(6)])
    assert await ahead == await level == [entry(6)]
    assert not behind.done(), "it lacks 4 and 5"
    assert waiters.positions() == {"j": at(3)}
    behind.cancel()


async def test_who_gives_up_is_forgotten(waiters: Waiters) -> None:
    task = await waiting(waiters, 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not waiters
    assert waiters.positions() == {}


async def test_waiting_can_be_ended_for_those_who_have_an_entry(waiters: Waiters) -> None:
    has, lacks = await waiting(waiters, 5), await waiting(waiters, 4)
    waiters.fail("j", lambda: ValueError("ended"), behind=at(5))
    with pytest.raises(ValueError, match="ended"):
        await has
    assert not lacks.done()
    waiters.fail_all(lambda: ValueError("all"))
    with pytest.raises(ValueError, match="all"):
        await lacks


async def test_waiting_ends_with_nothing_when_its_time_is_up(waiters: Waiters) -> None:
    short, long = await waiting(waiters, 5, 0.01), await waiting(waiters, 5)
    assert await short == []
    assert waiters.positions() == {"j": at(5)}, "the other still waits"
    waiters.dispatch("j", at(5), [entry(6)])
    assert await long == [entry(6)]
    assert not waiters


async def test_the_next_read_waits_for_readers_that_come_back(waiters: Waiters) -> None:
    first = await waiting(waiters, 5)
    waiters.dispatch("j", at(5), [entry(6)])
    await first
    returning = asyncio.ensure_future(waiters.await_return(["j"], within_s=60))
    await asyncio.sleep(0)
    assert not returning.done()
    again = await waiting(waiters, 6)
    await asyncio.wait_for(returning, 20)
    await waiters.await_return(["j"], within_s=60)  # it waits already
    again.cancel()


async def test_a_slow_reader_delays_the_next_read_only_so_long(waiters: Waiters) -> None:
    await asyncio.wait_for(waiters.await_return(["j", "k"], within_s=0.001), 5)
    task = await waiting(waiters, 5)
    assert not task.done()
    task.cancel()
