"""SIGSTOP for longer than a lease, then SIGCONT: the worker that wakes must not add a token."""

import asyncio
import signal
from functools import partial

import pytest

from tests.e2e.asking import TOKENS, again, ask, assert_unharmed
from tests.e2e.fleet import LEASE_S, Fleet
from tests.e2e.reading import Reader, Reading
from tests.processes import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
WORKERS = ("slow_lm_worker", "slow_lm_worker-2")


def has_written(fleet: Fleet, name: str, text: str) -> bool:
    return text in fleet.log(name)


@pytest.mark.parametrize("seed", [None, 21])
async def test_a_worker_that_wakes_adds_nothing(fleet: Fleet, seed: int | None) -> None:
    await fleet.only("gateway", *WORKERS)
    question = ask("sleep", seed=seed, max_tokens=2 * TOKENS)
    async with Reader(fleet.targets) as reader:
        undisturbed = await reader.read(question)
        for tokens in range(1, TOKENS, 4):
            reading = Reading(again(question))
            paused = ""
            async for _ in reader.events(reading):
                if len(reading.token_ids) == tokens and not paused:
                    paused = await fleet.holder(reading.request_id)
                    fleet.signal(paused, signal.SIGSTOP)
            journal = await assert_unharmed(fleet, reading, undisturbed)
            assert journal.isolated_runs, "nobody took it over"
            fleet.signal(paused, signal.SIGCONT)
            dropped = f"request={reading.request_id} dropped"
            await until(partial(has_written, fleet, paused, dropped))
            await assert_unharmed(fleet, reading, undisturbed)


async def test_it_wakes_in_the_middle_of_another_workers_answer(fleet: Fleet) -> None:
    await fleet.only("gateway", *WORKERS)
    question = ask("middle", seed=8, max_tokens=100)
    async with Reader(fleet.targets) as reader:
        undisturbed = await reader.read(question)
        reading = Reading(again(question))
        paused, is_awake = "", False
        async for _ in reader.events(reading):
            count = len(reading.token_ids)
            if count == 5 and not paused:
                paused = await fleet.holder(reading.request_id)
                fleet.signal(paused, signal.SIGSTOP)
            elif count == 20 and not is_awake:
                is_awake = True
                fleet.signal(paused, signal.SIGCONT)
        await assert_unharmed(fleet, reading, undisturbed)
    assert f"request={reading.request_id} dropped: lost" in fleet.log(paused)


async def test_a_lone_worker_goes_on_where_it_was(fleet: Fleet) -> None:
    await fleet.only("gateway", WORKERS[0])
    question = ask("lone", seed=9, max_tokens=2 * TOKENS)
    async with Reader(fleet.targets) as reader:
        undisturbed = await reader.read(question)
        reading = Reading(again(question))
        is_paused = False
        async for _ in reader.events(reading):
            if len(reading.token_ids) == 5 and not is_paused:
                is_paused = True
                fleet.signal(WORKERS[0], signal.SIGSTOP)
                await asyncio.sleep(2 * LEASE_S)
                fleet.signal(WORKERS[0], signal.SIGCONT)
        await assert_unharmed(fleet, reading, undisturbed)
