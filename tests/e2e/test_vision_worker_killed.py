"""kill -9 of the vision worker while it encodes."""

import asyncio
import signal

import pytest

from tests.e2e.asking import again, ask, assert_unharmed, digest_of, draw, encodes
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader, Reading
from tests.processes import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
WORKER = "slow_vision_worker"


async def on_the_device(fleet: Fleet, before: int, name: str = WORKER) -> None:
    """Wait until one more image is on the device."""
    await until(lambda: fleet.log(name).count("on the device") > before)


async def test_killed_while_encoding_it_costs_a_pause(fleet: Fleet) -> None:
    await fleet.only("gateway", "lm_worker", WORKER)
    image = draw("killed while encoding")
    questions = [ask("what", image), ask("where", image, seed=4)]
    before = fleet.log(WORKER).count("on the device")
    async with Reader(fleet.targets) as reader:
        readings = [Reading(question) for question in questions]
        tasks = [asyncio.create_task(reader.read_on(reading)) for reading in readings]
        await on_the_device(fleet, before)
        await fleet.kill(WORKER)
        assert encodes(fleet, image) == 0
        await fleet.start(WORKER)
        await asyncio.gather(*tasks)
        assert encodes(fleet, image) == 1  # for both
        for reading in readings:
            await assert_unharmed(fleet, reading, await reader.read(again(reading.request)))
    assert encodes(fleet, image) == 1


async def test_drained_while_encoding_another_worker_begins_at_once(fleet: Fleet) -> None:
    await fleet.only("gateway", "lm_worker", WORKER)
    image = draw("drained while encoding")
    before = fleet.log(WORKER).count("on the device")
    async with Reader(fleet.targets) as reader:
        reading = Reading(ask("what", image))
        task = asyncio.create_task(reader.read_on(reading))
        await on_the_device(fleet, before)
        await fleet.start(WORKER + "-2")
        fleet.signal(WORKER, signal.SIGTERM)
        assert await fleet.ended(WORKER) == 0
        await task
        await assert_unharmed(fleet, reading, await reader.read(again(reading.request)))
    assert "reclaimed" not in fleet.log(WORKER + "-2")  # it was handed back: no lease had to lapse
    assert encodes(fleet, image) == 1


async def test_a_worker_paused_while_encoding_stores_nothing_when_it_wakes(fleet: Fleet) -> None:
    await fleet.only("gateway", "lm_worker", WORKER)
    image = draw("paused while encoding")
    before = fleet.log(WORKER).count("on the device")
    async with Reader(fleet.targets) as reader:
        reading = Reading(ask("what", image))
        task = asyncio.create_task(reader.read_on(reading))
        await on_the_device(fleet, before)
        fleet.signal(WORKER, signal.SIGSTOP)
        await fleet.start(WORKER + "-2")
        await task
        fleet.signal(WORKER, signal.SIGCONT)
        await until(lambda: f"image={digest_of(image)} lease lost" in fleet.log(WORKER))
        await assert_unharmed(fleet, reading, await reader.read(again(reading.request)))
    assert encodes(fleet, image) == 1


async def test_an_embedding_that_is_lost_or_damaged_is_encoded_again(fleet: Fleet) -> None:
    await fleet.only("gateway", "lm_worker", WORKER)
    image = draw("embedding lost")
    async with Reader(fleet.targets) as reader:
        question = ask("what", image)
        undisturbed = await reader.read(question)
        [key] = [k async for k in fleet.connection.bulk.scan_iter(f"*embedding*{digest_of(image)}")]
        await fleet.connection.bulk.delete(key)
        await assert_unharmed(fleet, await reader.read(again(question)), undisturbed)
        assert encodes(fleet, image) == 2
        await fleet.connection.bulk.setrange(key, 200, b"damage")
        await assert_unharmed(fleet, await reader.read(again(question)), undisturbed)
    assert encodes(fleet, image) == 3
