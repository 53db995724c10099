"""Turns go round between owners, however many each has waiting."""

import asyncio

from glm4v.process.fair_semaphore import FairSemaphore


async def waiting(turns: FairSemaphore, owner: str, order: list[str]) -> None:
    await turns.acquire(owner)
    order.append(owner)


async def test_who_has_many_waiting_delays_nobody_who_has_one() -> None:
    turns, order = FairSemaphore(1), list[str]()
    await turns.acquire("first")
    owners = [*["many"] * 5, "one", "other"]
    tasks = [asyncio.create_task(waiting(turns, owner, order)) for owner in owners]
    await asyncio.sleep(0)
    for _ in tasks:
        turns.release()
        await asyncio.sleep(0)
    assert order == ["many", "one", "other", "many", "many", "many", "many"]


async def test_a_turn_of_one_who_left_goes_to_the_next() -> None:
    turns, order = FairSemaphore(1), list[str]()
    await turns.acquire("first")
    leaves, given, stays = [
        asyncio.create_task(waiting(turns, owner, order)) for owner in ("a", "b", "c")
    ]
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.sleep(0)
    turns.release()
    given.cancel()  # it has been given its turn, and does not know it yet
    await asyncio.gather(leaves, given, stays, return_exceptions=True)
    assert order == ["c"]
    turns.release()
    await asyncio.wait_for(turns.acquire("last"), 1)
