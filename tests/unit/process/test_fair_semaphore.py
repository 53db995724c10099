"""Turns go round between hosts and their connections, however many each has waiting."""

import asyncio

import pytest

from glm4v.process.fair_semaphore import FairSemaphore

Owner = tuple[str, str]


async def waiting(turns: FairSemaphore, owner: Owner, order: list[Owner]) -> None:
    await turns.acquire(*owner)
    order.append(owner)


async def start(
    turns: FairSemaphore, owners: list[Owner], order: list[Owner]
) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(waiting(turns, owner, order)) for owner in owners]
    await asyncio.sleep(0)
    return tasks


async def test_who_has_many_waiting_delays_nobody_who_has_one() -> None:
    turns, order = FairSemaphore(1), list[Owner]()
    many, one, other = ("many", "1"), ("one", "1"), ("many", "2")
    await turns.acquire("first", "")
    tasks = await start(turns, [*[many] * 5, one, other], order)
    for host in ["first", "many", "one", *["many"] * 4]:
        turns.release(host)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == [many, one, other, *[many] * 4]


async def test_one_host_has_half_of_all_at_most() -> None:
    turns, order = FairSemaphore(4), list[Owner]()
    tasks = await start(turns, [("many", str(n)) for n in range(9)], order)
    assert len(order) == 2
    await asyncio.wait_for(turns.acquire("one", ""), 1)
    turns.release("one")
    await asyncio.sleep(0)
    assert len(order) == 2
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize("host", ["", "alone"])
async def test_of_one_there_is_one_always_and_of_none_there_are_all(host: str) -> None:
    turns, order = FairSemaphore(1 if host else 3), list[Owner]()
    await start(turns, [(host, "")] * 3, order)
    assert len(order) == (1 if host else 3)


async def test_a_turn_of_one_who_left_goes_to_the_next() -> None:
    turns, order = FairSemaphore(1), list[Owner]()
    await turns.acquire("first", "")
    leaves, given, stays = await start(turns, [("a", ""), ("b", ""), ("c", "")], order)
    leaves.cancel()
    await asyncio.sleep(0)
    turns.release("first")
    given.cancel()  # it has been given its turn, and does not know it yet
    await asyncio.gather(leaves, given, stays, return_exceptions=True)
    assert order == [("c", "")]
    turns.release("c")
    await asyncio.wait_for(turns.acquire("last", ""), 1)
