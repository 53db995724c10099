"""Redis comes back without anything: as without a file, or from a replica that had nothing."""

import asyncio
import shutil
import signal

import pytest

from tests.e2e.asking import again, ask, draw
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader, Reading
from tests.processes import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]
LM = "slow_lm_worker"
SERVICES = ("gateway", "vision_worker", LM)


async def _empty(fleet: Fleet, how: str) -> None:
    if how == "flushed":
        await fleet.connection.commands.flushall()
        return
    fleet.signal("redis", signal.SIGKILL)
    fleet.redis.stop()
    shutil.rmtree(fleet.redis.data_dir / "appendonlydir")
    fleet.start_redis()


@pytest.mark.parametrize("how", ["flushed", "restarted without its file"])
async def test_workers_stay_what_was_accepted_ends_and_new_requests_are_answered(
    fleet: Fleet, how: str
) -> None:
    await fleet.only(*SERVICES)
    pids = {name: fleet.pid(name) for name in SERVICES}
    question = ask("emptied", draw(f"emptied, {how}"), seed=8, max_tokens=30)
    async with Reader(fleet.targets) as reader:
        undisturbed = await reader.read(question)
        answering, waiting = Reading(again(question)), Reading(ask("behind", max_tokens=200))
        tasks = [asyncio.create_task(reader.read_on(each)) for each in (answering, waiting)]
        await until(lambda: len(answering.token_ids) >= 5 and waiting.is_accepted)
        await _empty(fleet, how)
        await asyncio.gather(*tasks)
        for reading in (answering, waiting):
            assert reading.terminal == ["NOT_FOUND"], reading.details
        reading = await reader.read(again(question))
        assert reading.token_ids == undisturbed.token_ids
    assert {name: fleet.pid(name) for name in SERVICES} == pids
    assert set(SERVICES) <= set(fleet.running)
    assert "lost its queues; creating them again" in fleet.log(LM) + fleet.log("vision_worker")
