"""Queue lengths and positions, counted by hand from who asked what in which order."""

import asyncio
import time

import pytest

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.deployment_state import deployment_state
from glm4v.broker.queue_lengths import QueueLength, QueueLengths, queue_lengths
from glm4v.broker.queue_position import queue_position
from tests.integration.test_broker import MODEL, Bench, make_job

NONE = QueueLength(0, 0, 0.0)


@pytest.fixture
async def bench(connection: Connection, keys: Keys) -> Bench:
    bench = Bench(connection, keys)
    bench.broker = Broker(connection, keys, max_open_requests=40, result_ttl_s=60)
    await bench.broker.ready(MODEL)
    return bench


async def ask(bench: Bench, client: str, *names: str, image: bytes = b"") -> None:
    for name in names:
        job = make_job(name, image=image)
        job.client = client
        await bench.broker.submit(job, image or None)


async def lengths(bench: Bench) -> QueueLengths:
    return await queue_lengths(bench.connection, bench.keys, MODEL)


async def positions(bench: Bench, *names: str, image: bytes = b"") -> list[int | None]:
    jobs = [make_job(name, image=image) for name in names]
    return [await queue_position(bench.connection, bench.keys, job) for job in jobs]


async def test_nothing_is_anywhere_at_first(bench: Bench) -> None:
    assert await lengths(bench) == QueueLengths(0, 0, NONE, NONE)


async def test_jobs_wait_also_where_no_worker_ever_made_a_group(bench: Bench) -> None:
    await bench.connection.commands.delete(bench.keys.jobs_lm(MODEL), bench.keys.jobs_vision(MODEL))
    await ask(bench, "a", "t")
    await ask(bench, "b", "i", image=b"image")
    await asyncio.sleep(0.05)
    found = await lengths(bench)
    for each in (found.language, found.vision):
        assert (each.jobs, each.waiting) == (1, 1)
        assert 0.05 <= each.oldest_s < 60


async def test_the_oldest_is_the_oldest_that_is_not_claimed(bench: Bench) -> None:
    await ask(bench, "a", "a0")
    await asyncio.sleep(0.2)
    asked_at = time.monotonic()
    await ask(bench, "a", "a1")
    assert (await lengths(bench)).language.oldest_s >= 0.2
    [lease] = await bench.lm.claim(1)
    assert lease.request_id == "a0"
    found = (await lengths(bench)).language
    assert (found.jobs, found.waiting) == (1, 1)  # a0 in the stream, a1 in its line
    await asyncio.sleep(0.01)
    age_s = (await lengths(bench)).language.oldest_s
    assert 0 < age_s <= time.monotonic() - asked_at + 0.05
    assert [each.request_id for each in await bench.lm.claim(1)] == ["a1"]
    assert (await lengths(bench)).language == QueueLength(2, 0, 0.0)


async def test_a_requeued_request_waits_again(bench: Bench) -> None:
    await ask(bench, "a", "a0", "a1", "a2")
    leases = await bench.lm.claim(2)
    await bench.lm.requeue(leases[1:])
    found = await lengths(bench)
    assert found.open_requests == 3
    assert found.waiting_clients == 1
    assert (found.language.jobs, found.language.waiting) == (1, 2)
    assert await positions(bench, "a0", "a1", "a2") == [None, 0, 1]


async def test_an_image_of_many_requests_is_one_job(bench: Bench) -> None:
    await ask(bench, "a", "i0", "i1", image=b"one")
    await ask(bench, "b", "i2", image=b"two")
    found = await lengths(bench)
    assert (found.open_requests, found.vision.jobs, found.vision.waiting) == (3, 2, 2)
    assert await positions(bench, "i0", "i1", image=b"one") == [0, 0]
    assert await positions(bench, "i2", image=b"two") == [1]
    [lease] = await bench.vision.claim(1)
    await bench.vision.begin(lease)
    found = await lengths(bench)
    assert (found.vision.jobs, found.vision.waiting) == (2, 1)
    assert await positions(bench, "i0", image=b"one") == [None]  # it is being encoded
    assert await positions(bench, "i2", image=b"two") == [1]


async def test_clients_before_and_behind_take_turns(bench: Bench) -> None:
    await ask(bench, "many", "m0", "m1", "m2", "m3")  # m0 goes into the stream
    await ask(bench, "few", "f0", "f1")
    await ask(bench, "one", "o0")
    # As workers will claim them: m0, then in turns m1 f0 o0, m2 f1, m3.
    order = ["m0", "m1", "f0", "o0", "m2", "f1", "m3"]
    assert await positions(bench, *order) == [0, 1, 2, 3, 4, 5, 6]
    claimed = [each.request_id for each in await bench.lm.claim(9)]
    assert claimed == order
    assert await positions(bench, *order) == [None] * 7


async def test_a_request_in_the_stream_waits_behind_those_that_no_worker_has_claimed(
    bench: Bench,
) -> None:
    """Former releases put several into the stream; this one does while workers have room."""
    await ask(bench, "a", "a0")
    [claimed] = await bench.lm.claim(1)
    await ask(bench, "b", "b0")
    stream = bench.keys.jobs_lm(MODEL)
    for name in ("b1", "b2"):
        await bench.connection.commands.xadd(stream, {"r": name, "l": 0, "v": 1})
    await bench.connection.commands.xadd(stream, {"foreign": "entry"}, id="*")
    await bench.connection.commands.xadd(stream, {"r": "b3", "l": 0, "v": 1})
    names = ["a0", "b0", "b1", "b2", "b3", "unknown"]
    assert await positions(bench, *names) == [None, 0, 1, 2, 4, None]
    assert [each.request_id for each in await bench.lm.claim(1)] == ["b0"]
    assert await positions(bench, *names) == [None, None, 0, 1, 3, None]
    await bench.lm.requeue([claimed])
    assert await positions(bench, "a0", "b1") == [4, 0]


async def test_a_request_far_behind_in_the_stream_has_no_position(bench: Bench) -> None:
    async with bench.connection.commands.pipeline(transaction=False) as pipe:
        for number in range(1100):
            pipe.xadd(bench.keys.jobs_lm(MODEL), {"r": f"r{number}", "l": 0, "v": 1})
        await pipe.execute()
    assert await positions(bench, "r0", "r999", "r1000") == [0, 999, None]


async def test_foreign_values_are_no_jobs(bench: Bench) -> None:
    await bench.connection.commands.xadd(bench.keys.jobs_vision(MODEL), {"d": b"\xff\xff"})
    await ask(bench, "a", "i", image=b"image")
    assert await positions(bench, "i", image=b"image") == [1]
    await bench.connection.commands.zadd(bench.keys.queues, {b"\xff\xfe": 1, b"lm:": 1})
    found = await deployment_state(bench.connection, bench.keys)
    assert set(found.models) == {MODEL}
    assert found.open_requests == 1
