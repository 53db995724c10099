"""SIGTERM: running requests move to another worker at a token; a rolling restart breaks nothing."""

import asyncio
import signal
import socket
import time

import anyio
import pytest

from tests.e2e.asking import again, ask, assert_unharmed, digest_of, draw
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader, Reading
from tests.processes import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]
WORKERS = ("slow_lm_worker", "slow_lm_worker-2")


async def test_running_requests_are_handed_over_at_a_token(fleet: Fleet) -> None:
    await fleet.only("gateway", "vision_worker", *WORKERS)
    questions = [ask(f"drain {n}", seed=n, max_tokens=60) for n in range(3)]
    questions.append(ask("drain", draw("handed over"), max_tokens=60))
    async with Reader(fleet.targets) as reader:
        undisturbed = [await reader.read(question) for question in questions]
        readings = [Reading(again(question)) for question in questions]
        tasks = [asyncio.create_task(reader.read_on(reading)) for reading in readings]
        await until(lambda: min(len(reading.token_ids) for reading in readings) >= 5)
        drained = await fleet.holder(readings[0].request_id)
        fleet.signal(drained, signal.SIGTERM)
        assert await fleet.ended(drained) == 0  # and with 1 if its cache had lost a block
        assert not all(task.done() for task in tasks)  # it did not wait for their ends
        await asyncio.gather(*tasks)
        for reading, expected in zip(readings, undisturbed, strict=True):
            journal = await assert_unharmed(fleet, reading, expected)
            assert journal.isolated_runs == []  # no lease lapsed, nobody became a suspect


@pytest.mark.parametrize("worker", ["vision_worker", "lm_worker"])
async def test_a_worker_whose_redis_never_came_ends_at_once(fleet: Fleet, worker: str) -> None:
    """Nothing is in progress that a drain of ten seconds could be for."""
    await fleet.only()
    fleet.redis.stop()
    try:
        await fleet.start(worker, wait=False)
        logged = len(fleet.log(worker))
        await until(lambda: "not ready: " in fleet.log(worker)[logged:])
        began = time.monotonic()
        fleet.signal(worker, signal.SIGTERM)
        assert await fleet.ended(worker) == 0
        assert time.monotonic() - began < 8
    finally:
        fleet.start_redis()


@pytest.mark.parametrize("worker", ["loading_vision_worker", "loading_lm_worker"])
async def test_a_worker_that_reads_its_weights_stops_at_once(fleet: Fleet, worker: str) -> None:
    await fleet.only()
    await fleet.start(worker, wait=False)
    await until(lambda: "reading weights" in fleet.log(worker))
    began = time.monotonic()
    fleet.signal(worker, signal.SIGTERM)
    assert await fleet.ended(worker) == 0
    assert time.monotonic() - began < 8  # half a second on an idle machine; reading takes 600 s
    assert fleet.log(worker).endswith("stopped\n")
    assert "exiting anyway" not in fleet.log(worker)


async def test_all_ranks_that_read_their_weights_stop_at_once(fleet: Fleet) -> None:
    """Also those of other hosts, whose main thread reads."""
    await fleet.only()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = {f"loading_lm_worker-rank{rank}": str(rank) for rank in range(2)}
    for name, rank in ranks.items():
        variables = {**place, "RANK": rank, "GLM4V_TENSOR_PARALLEL": "2"}
        await fleet.start(name, wait=False, environment=variables)
    await until(lambda: all("reading weights" in fleet.log(name) for name in ranks))
    began = time.monotonic()
    for name in ranks:
        fleet.signal(name, signal.SIGTERM)
    for name in ranks:
        assert await fleet.ended(name) == 0
        assert fleet.log(name).endswith("stopped\n")
    assert time.monotonic() - began < 8


async def test_a_second_signal_forces_the_end(fleet: Fleet) -> None:
    await fleet.only("gateway", WORKERS[0])
    async with Reader(fleet.targets) as reader:
        reading, is_forced = Reading(ask("forced", max_tokens=60)), False
        drains = fleet.log(WORKERS[0]).count("draining")
        async for _ in reader.events(reading):
            if len(reading.token_ids) == 3 and not is_forced:
                is_forced = True
                fleet.signal("redis", signal.SIGSTOP)  # so that it cannot hand anything back
                fleet.signal(WORKERS[0], signal.SIGTERM)
                await until(lambda: fleet.log(WORKERS[0]).count("draining") > drains)
                fleet.signal(WORKERS[0], signal.SIGTERM)
                assert await fleet.ended(WORKERS[0]) == 130
                fleet.signal("redis", signal.SIGCONT)
                await fleet.start(WORKERS[0])
        undisturbed = await reader.read(again(reading.request))
        await assert_unharmed(fleet, reading, undisturbed)


async def test_a_rolling_restart_of_every_process_breaks_nothing(fleet: Fleet) -> None:
    names = [
        f"{kind}{number}"
        for kind in ("gateway", "vision_worker", "lm_worker")
        for number in ("", "-2")
    ]
    await fleet.only(*names)
    undisturbed: dict[int, Reading] = {}
    done: list[tuple[int, Reading]] = []
    images = [draw(f"rolling {n}") for n in range(4)]
    stopping = anyio.Event()

    def question(number: int) -> Reading:
        image = images[number % 8] if number % 8 < len(images) else None
        seed = number if number % 2 else None
        return Reading(ask(f"roll {number % 16}", image, seed=seed, max_tokens=80))

    async def client(reader: Reader, number: int) -> None:
        while not stopping.is_set():
            reading = await reader.read_on(question(number))
            done.append((number, reading))

    async with Reader(fleet.targets) as reader:
        async with anyio.create_task_group() as clients:
            for number in range(16):
                clients.start_soon(client, reader, number)
            for name in names:
                await asyncio.sleep(0.5)
                fleet.signal(name, signal.SIGTERM)
                assert await fleet.ended(name) == 0
                await fleet.start(name)
            stopping.set()
        for number in range(16):
            undisturbed[number] = await reader.read_on(question(number))
    assert len(done) > len(names)
    for number, reading in done:
        journal = await assert_unharmed(fleet, reading, undisturbed[number])
        assert journal.isolated_runs == []
    stored = [fleet.logs("vision_worker").count(f"{digest_of(i)} encoded") for i in images]
    assert stored == [1] * len(images)
