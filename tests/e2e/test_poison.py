"""A request that kills its worker again and again is given up alone."""

import asyncio
import os
import subprocess
import sys

import pytest

from glm4v.broker.dead_letters import DeadLetters
from lm_worker.claimer import MAX_ISOLATED_FAILURES
from tests.e2e.asking import again, ask, assert_unharmed
from tests.e2e.crashing_lm_worker import POISON
from tests.e2e.fleet import ROOT, Fleet
from tests.e2e.journals import read_journal
from tests.e2e.reading import Reader, Reading

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]
WORKER = "crashing_lm_worker"


async def glm4v(fleet: Fleet, *words: str) -> str:
    """What the command says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "glm4v.cli", *words),
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLM4V_REDIS_URL": fleet.redis.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return out.decode()


async def keep_running(fleet: Fleet) -> None:
    while True:
        await fleet.ended(WORKER)
        await fleet.start(WORKER, wait=False)


async def test_it_is_given_up_and_its_neighbours_finish(fleet: Fleet) -> None:
    await fleet.only("gateway", "lm_worker")
    questions = [ask(f"neighbour {n}", seed=n, max_tokens=200) for n in range(6)]
    async with Reader(fleet.targets) as reader:
        undisturbed = [await reader.read(question) for question in questions]
        await fleet.only("gateway", WORKER)
        keeper = asyncio.create_task(keep_running(fleet))
        readings = [Reading(again(question)) for question in questions]
        poison = Reading(ask(f"look at this {POISON}"))
        tasks = [asyncio.create_task(reader.read_on(reading)) for reading in [*readings, poison]]
        await asyncio.gather(*tasks)
        keeper.cancel()
        for reading, expected in zip(readings, undisturbed, strict=True):
            await assert_unharmed(fleet, reading, expected)
    assert poison.terminal == ["ABORTED"]
    assert str(MAX_ISOLATED_FAILURES) in poison.details
    journal = await read_journal(fleet.connection, fleet.keys, poison.request_id)
    assert journal is not None
    assert (len(journal.ends), len(journal.isolated_runs)) == (1, MAX_ISOLATED_FAILURES)
    dead = [d async for d in DeadLetters(fleet.connection, fleet.keys).all()]
    assert [d.job.request_id for d in dead if d.job].count(poison.request_id) == 1


async def test_it_can_be_tried_again_once_the_worker_is_mended(fleet: Fleet) -> None:
    await fleet.only("gateway", WORKER)
    async with Reader(fleet.targets) as reader:
        keeper = asyncio.create_task(keep_running(fleet))
        poison = await reader.read(ask(f"look again {POISON}"))
        keeper.cancel()
        assert poison.terminal == ["ABORTED"]
        await fleet.only("gateway", "lm_worker")
        assert poison.request_id in await glm4v(fleet, "dead", "list")
        assert poison.details in await glm4v(fleet, "dead", "show", poison.request_id)
        said = await glm4v(fleet, "dead", "retry", poison.request_id)
        retried = Reading(ask("unused"), is_accepted=True)
        retried.request.request_id = said.split()[-1]
        assert retried.request_id != poison.request_id
        await reader.read_on(retried)
        undisturbed = await reader.read(again(poison.request))
        await assert_unharmed(fleet, retried, undisturbed)
    assert poison.request_id not in await glm4v(fleet, "dead", "list")
    with pytest.raises(AssertionError, match="is not a dead letter"):
        await glm4v(fleet, "dead", "retry", poison.request_id)
