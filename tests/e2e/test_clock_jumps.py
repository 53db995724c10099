"""The clock of Redis is set, minutes at a time, with requests under way."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest
import pytest_asyncio

from tests.e2e.asking import again, ask, assert_unharmed, draw
from tests.e2e.fleet import LEASE_S, Fleet
from tests.e2e.journals import read_journal
from tests.e2e.reading import Reader, Reading
from tests.processes import until
from tests.shifted_redis import ShiftedRedis

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
    pytest.mark.needs_faketime,
]
LM, OTHER_LM = "slow_lm_worker", "slow_lm_worker-2"
FAR_S = 300.0
TOKENS = 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(checkpoint_dir: Callable[[str], Path]) -> AsyncIterator[Fleet]:
    """With a Redis of its own."""
    async with Fleet(checkpoint_dir("micro-glm4v"), redis=ShiftedRedis) as fleet:
        await fleet.start("gateway", "gateway-2", "vision_worker", LM)
        yield fleet


async def set_clock(fleet: Fleet, ahead_s: float) -> None:
    """Set it so far ahead of this machine's, and wait until Redis has looked."""
    assert isinstance(fleet.redis, ShiftedRedis)
    fleet.redis.shift(ahead_s)
    with anyio.fail_after(20):
        off_s = FAR_S
        while off_s > 5:
            seconds, _ = await fleet.connection.commands.time()
            off_s = abs(seconds - time.time() - ahead_s)


@pytest.mark.parametrize("ahead_s", [FAR_S, -FAR_S], ids=["ahead", "back"])
async def test_what_is_not_over_by_then_is_answered_as_ever(fleet: Fleet, ahead_s: float) -> None:
    await set_clock(fleet, 0)
    questions = [
        ask("one", max_tokens=TOKENS),
        ask("two", draw(f"clock {ahead_s}"), seed=3, max_tokens=TOKENS),
    ]
    async with Reader(fleet.targets, timeout_s=4 * FAR_S) as reader:
        undisturbed = [await reader.read(question) for question in questions]
        readings = [Reading(again(question)) for question in questions]
        tasks = [asyncio.create_task(reader.read_on(reading)) for reading in readings]
        await until(lambda: all(len(reading.token_ids) >= 3 for reading in readings))
        await set_clock(fleet, ahead_s)
        assert not any(task.done() for task in tasks)
        await asyncio.gather(*tasks)
        for reading, expected in zip(readings, undisturbed, strict=True):
            await assert_unharmed(fleet, reading, expected)
        new = await reader.read(again(questions[0]))
        await assert_unharmed(fleet, new, undisturbed[0])


async def test_the_lease_of_a_dead_worker_lapses_though_the_clock_was_set_back(
    fleet: Fleet,
) -> None:
    await set_clock(fleet, 0)
    question = ask("dead", seed=5, max_tokens=TOKENS)
    async with Reader(fleet.targets, timeout_s=4 * FAR_S) as reader:
        undisturbed = await reader.read(question)
        reading = Reading(again(question))
        task = asyncio.create_task(reader.read_on(reading))
        await until(lambda: len(reading.token_ids) >= 3)
        await fleet.kill(LM)
        await set_clock(fleet, -FAR_S)
        await fleet.start(OTHER_LM)
        with anyio.fail_after(20 * LEASE_S):
            await task
        await assert_unharmed(fleet, reading, undisturbed)
    await fleet.only("gateway", "gateway-2", "vision_worker", LM)


async def test_a_deadline_that_is_over_by_then_ends_its_request_once(fleet: Fleet) -> None:
    await set_clock(fleet, 0)
    async with Reader(fleet.targets, timeout_s=FAR_S / 2) as reader:
        reading = Reading(ask("late", max_tokens=400))
        task = asyncio.create_task(reader.read_on(reading))
        await until(lambda: len(reading.token_ids) >= 3)
        await set_clock(fleet, FAR_S)
        with anyio.fail_after(20):
            await task
    assert reading.terminal == ["DEADLINE_EXCEEDED"]
    journal = await read_journal(fleet.connection, fleet.keys, reading.request_id)
    assert journal is not None
    assert (len(journal.ends), journal.duplicated, journal.missing) == (1, 0, 0)
