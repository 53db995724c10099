"""Redis forgets tokens that it had acknowledged, as it may when it is configured to."""

import asyncio

import pytest

from tests.e2e.asking import again, ask, assert_unharmed
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader, Reading
from tests.processes import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
LM = "slow_lm_worker"


async def test_lost_tokens_are_computed_again_and_seen_once(fleet: Fleet) -> None:
    await fleet.only("gateway", LM)
    question = ask("forgotten", seed=13, max_tokens=30)
    commands = fleet.connection.commands
    async with Reader(fleet.targets) as reader:
        undisturbed = await reader.read(question)
        reading = Reading(again(question))
        task = asyncio.create_task(reader.read_on(reading))
        await until(lambda: len(reading.token_ids) >= 10)
        key = fleet.keys.journal(reading.request_id)
        lost = await commands.xrevrange(key, count=3)
        await commands.xdel(key, *(entry for entry, _ in lost))
        await task
        await assert_unharmed(fleet, reading, undisturbed)
    assert f"request={reading.request_id} dropped: behind" in fleet.log(LM)
