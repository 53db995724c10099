"""A task that is cancelled in a call of Redis ends, wherever the cancellation meets it."""

import asyncio

import pytest

from glm4v.broker import Connection, Keys
from glm4v.broker.clock import RedisClock

STEPS = range(1, 25)  # of the event loop until the cancellation; a call takes about eight


async def call_for_ever(clock: RedisClock) -> None:
    while True:
        await clock.now_ms()


async def ended(task: "asyncio.Task[None]") -> bool:
    done, _ = await asyncio.wait([task], timeout=20)
    return bool(done) and task.cancelled()


@pytest.mark.parametrize("steps", STEPS)
async def test_a_cancellation_is_never_lost(connection: Connection, keys: Keys, steps: int) -> None:
    task = asyncio.create_task(call_for_ever(RedisClock(connection, keys)))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    try:
        assert await ended(task)
    finally:
        while not task.done():
            task.cancel()
            await asyncio.sleep(0.01)


async def test_a_task_that_was_cancelled_may_still_call(connection: Connection, keys: Keys) -> None:
    """Workers give back what they hold while they are being cancelled."""
    clock = RedisClock(connection, keys)
    seen: list[int] = []

    async def clean_up() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            seen.append(await clock.now_ms())

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    assert await ended(task)
    assert seen
