"""Redis killed, stalled, and out of memory, with requests under way."""

import asyncio
import signal
import time

import grpc
import pytest

from glm4v.v1 import inference_pb2 as api
from tests.e2e.asking import again, ask, assert_unharmed, draw
from tests.e2e.fleet import Fleet
from tests.e2e.journals import read_journal
from tests.e2e.reading import Reader, Reading
from tests.processes import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]
LM = "slow_lm_worker"
SERVICES = ("gateway", "vision_worker", LM)


async def test_killed_and_started_on_its_files_it_has_lost_nothing(fleet: Fleet) -> None:
    await fleet.only(*SERVICES)
    questions = [ask("one"), ask("two", seed=3), ask("three", draw("redis killed"), seed=4)]
    async with Reader(fleet.targets) as reader:
        undisturbed = [await reader.read(question) for question in questions]
        for tokens in (0, 4, 9):
            readings = [Reading(again(question)) for question in questions]
            tasks = [asyncio.create_task(reader.read_on(reading)) for reading in readings]
            await until(lambda n=tokens, r=readings: _has(r, n))  # type: ignore[misc]
            fleet.restart_redis()
            await asyncio.gather(*tasks)
            for reading, expected in zip(readings, undisturbed, strict=True):
                await assert_unharmed(fleet, reading, expected)


def _has(readings: list[Reading], tokens: int) -> bool:
    return all(r.is_accepted and len(r.token_ids) >= tokens for r in readings)


async def test_while_it_is_away_requests_wait_and_new_ones_are_refused_quickly(
    fleet: Fleet,
) -> None:
    await fleet.only(*SERVICES)
    question = ask("away", seed=6, max_tokens=30)
    async with Reader(fleet.targets) as reader:
        undisturbed = await reader.read(question)
        reading = Reading(again(question))
        task = asyncio.create_task(reader.read_on(reading))
        await until(lambda: len(reading.token_ids) >= 5)
        fleet.signal("redis", signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _first_event(fleet, ask("new"))
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - started < reader.timeout_s / 10  # not its deadline
        assert not task.done()
        assert all(name in fleet.running for name in SERVICES)
        fleet.start_redis()
        await task
        await assert_unharmed(fleet, reading, undisturbed)


async def test_a_deadline_ends_a_request_that_waits_for_it(fleet: Fleet) -> None:
    await fleet.only(*SERVICES)
    async with Reader(fleet.targets, timeout_s=3) as reader:
        reading = Reading(ask("late", max_tokens=400))
        task = asyncio.create_task(reader.read_on(reading))
        await until(lambda: len(reading.token_ids) >= 3)
        fleet.signal("redis", signal.SIGKILL)
        await task
        fleet.start_redis()
    assert reading.terminal == ["DEADLINE_EXCEEDED"]
    journal = await read_journal(fleet.connection, fleet.keys, reading.request_id)
    while journal is not None and not journal.ends:  # the gateways look once a second
        await asyncio.sleep(0.1)
        journal = await read_journal(fleet.connection, fleet.keys, reading.request_id)
    assert journal is not None
    assert len(journal.ends) == 1


async def test_stalled_it_costs_a_pause(fleet: Fleet) -> None:
    await fleet.only(*SERVICES)
    question = ask("stalled", seed=2, max_tokens=20)
    async with Reader(fleet.targets) as reader:
        undisturbed = await reader.read(question)
        reading = Reading(again(question))
        task = asyncio.create_task(reader.read_on(reading))
        await until(lambda: len(reading.token_ids) >= 5)
        fleet.signal("redis", signal.SIGSTOP)
        await asyncio.sleep(2)
        fleet.signal("redis", signal.SIGCONT)
        await task
        await assert_unharmed(fleet, reading, undisturbed)


async def test_out_of_memory_refuses_the_new_and_finishes_the_old_later(fleet: Fleet) -> None:
    await fleet.only(*SERVICES)
    commands = fleet.connection.commands
    question = ask("memory", draw("out of memory"), seed=5, max_tokens=40)
    async with Reader(fleet.targets) as reader:
        undisturbed = await reader.read(question)
        reading = Reading(again(question))
        task = asyncio.create_task(reader.read_on(reading))
        await until(lambda: len(reading.token_ids) >= 5)
        await commands.config_set("maxmemory-policy", "noeviction")  # its images may not go
        await commands.config_set("maxmemory", 1)
        try:
            for new in (ask("no"), ask("no", draw("no memory left"))):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await _first_event(fleet, new)
                assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "out of memory" in str(refused.value.details())
            await asyncio.sleep(2.5)  # longer than a lease, and than the gateways' rounds
            # A process that starts now waits until it can serve.
            await fleet.kill("vision_worker")
            await fleet.start("vision_worker", wait=False)
            await until(lambda: "not ready: Redis is out of memory" in fleet.log("vision_worker"))
            # A worker that drains now keeps its requests until they can be handed back.
            fleet.signal(LM, signal.SIGTERM)
            await asyncio.sleep(0.5)
        finally:
            await commands.config_set("maxmemory", 0)
            await commands.config_set("maxmemory-policy", "volatile-lru")
        assert await fleet.ended(LM) == 0
        await fleet.start(LM)
        assert "gateway" in fleet.running
        await fleet.serving("vision_worker")
        await task
        await assert_unharmed(fleet, reading, undisturbed)


async def _first_event(fleet: Fleet, request: api.GenerateRequest) -> None:
    async with Reader(fleet.targets) as reader:
        async for _ in reader.stubs[0].Generate(request, timeout=30):
            return
