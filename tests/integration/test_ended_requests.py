"""Every end is recorded, by one gateway, whatever ended the request and whoever dies."""

import asyncio
import tracemalloc
from collections import Counter

import pytest

from gateway.records import recorder as recorder_module
from gateway.records.recorder import Recorder
from glm4v.broker import Broker, Connection, Keys
from glm4v.broker import ended_requests as module
from glm4v.broker.connection import script_source
from glm4v.broker.ended_requests import EndedRequests
from glm4v.broker.timeline import Timeline
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.local.redis_server import RedisServer
from glm4v.v1 import inference_pb2 as api

JOB = pb.Job(fingerprint="m", prompt_ids=[1, 2], timeout_ms=60_000, orphan_timeout_ms=60_000)


@pytest.fixture
async def broker(connection: Connection, keys: Keys) -> Broker:
    found = Broker(connection, keys, max_open_requests=1000, result_ttl_s=60)
    await found.ready("m")
    return found


async def end(broker: Broker, request_id: str) -> None:
    job = pb.Job(request_id=request_id, content_digest=request_id.encode())
    job.MergeFrom(JOB)
    await broker.submit(job, None)
    await broker.close_request(request_id, pb.JournalEnd(kind=pb.END_KIND_CANCELLED))


async def test_an_end_is_recorded_once_by_one_of_two_gateways(
    broker: Broker, connection: Connection, keys: Keys
) -> None:
    found: list[Timeline] = []
    gateways = [Recorder(EndedRequests(connection, keys), [found.append]) for _ in range(2)]
    for number in range(5):
        await end(broker, f"r{number}")
    for each in gateways * 3:
        await each.record()
    assert sorted(each.job.request_id for each in found) == [f"r{number}" for number in range(5)]
    assert {each.end_reason for each in found} == {"cancelled"}
    assert await connection.commands.xlen(keys.ended) == 0


async def test_what_a_dead_gateway_claimed_is_recorded_by_another(
    broker: Broker, connection: Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, living = EndedRequests(connection, keys), EndedRequests(connection, keys)
    await dead.claim()  # creates the group
    await end(broker, "r")
    assert [request_id for _, request_id in await dead.claim()] == ["r"]
    assert await living.claim() == []
    monkeypatch.setattr(module, "_LAPSED_MS", 0)
    assert [request_id for _, request_id in await living.claim()] == ["r"]


async def test_a_request_that_cannot_be_recorded_stops_nothing(
    broker: Broker, connection: Connection, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[Timeline] = []

    def fail(timeline: Timeline) -> None:
        raise ValueError("a sink's own fault")

    recorder = Recorder(EndedRequests(connection, keys), [fail, found.append])
    await recorder.record()
    await end(broker, "r")
    await connection.commands.xadd(keys.ended, {"foreign": "entry"})
    await connection.commands.xadd(keys.ended, {"r": "gone"})
    await recorder.record()
    assert [each.job.request_id for each in found] == ["r"]
    assert "request=r could not be recorded" in caplog.text
    assert await connection.commands.xlen(keys.ended) == 0


async def test_a_journal_of_another_type_keeps_no_other_request_from_being_recorded_once(
    broker: Broker, connection: Connection, keys: Keys
) -> None:
    found: list[Timeline] = []
    recorder = Recorder(EndedRequests(connection, keys), [found.append])
    await recorder.record()
    for name in ("before", "foreign", "after"):
        await end(broker, name)
    await connection.commands.delete(keys.journal("foreign"))
    await connection.commands.set(keys.journal("foreign"), "of another program")
    await recorder.record()
    assert [each.job.request_id for each in found] == ["before", "after"]
    assert await connection.commands.xlen(keys.ended) == 0


async def test_a_long_journal_is_read_in_parts(
    broker: Broker, connection: Connection, keys: Keys
) -> None:
    """20 000 tokens in a megabyte or so: held whole, they were 13 MB, and 46 MB 100 000 of them."""
    await append_tokens(broker, connection, keys, "long", 20_000)
    tracemalloc.start()
    found = await EndedRequests(connection, keys).timeline("long")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None
    assert found.tokens == 20_000
    assert found.end_reason == "cancelled"
    assert peak < 4 * 2**20


async def append_tokens(
    broker: Broker, connection: Connection, keys: Keys, request_id: str, count: int
) -> None:
    """An ended request with a journal of one entry for each token."""
    job = pb.Job(request_id=request_id, content_digest=b"long")
    job.MergeFrom(JOB)
    await broker.submit(job, None)
    async with connection.commands.pipeline(transaction=False) as pipe:
        running = pb.JournalStage(stage=api.STAGE_RUNNING, worker="w").SerializeToString()
        pipe.xadd(keys.journal(request_id), {"k": "s", "n": 0, "d": running})
        for index in range(1, count + 1):
            pipe.xadd(keys.journal(request_id), {"k": "t", "n": index, "d": bytes(40)})
        await pipe.execute()
    await broker.close_request(request_id, pb.JournalEnd(kind=pb.END_KIND_CANCELLED))


async def test_thousands_of_ends_are_recorded_once_and_leave_the_loop_free(
    broker: Broker, connection: Connection, keys: Keys
) -> None:
    found: Counter[str] = Counter()
    recorder = Recorder(
        EndedRequests(connection, keys), [lambda it: found.update([it.job.request_id])]
    )
    await recorder.record()
    names = [f"r{number}" for number in range(1000)]
    for start in range(0, len(names), 50):
        await asyncio.gather(*(end(broker, name) for name in names[start : start + 50]))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    while await recorder.record():
        pass
    counting.cancel()
    assert found == dict.fromkeys(names, 1)
    assert await connection.commands.xlen(keys.ended) == 0
    assert turns > len(names)  # other tasks ran between any two requests


async def test_a_slow_gateway_stops_before_another_one_claims_the_same(
    broker: Broker, connection: Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Timeline] = []
    recorder = Recorder(EndedRequests(connection, keys), [found.append])
    await recorder.record()
    for number in range(5):
        await end(broker, f"r{number}")
    monkeypatch.setattr(recorder_module, "_BATCH_S", 0.0)
    assert await recorder.record()
    assert [each.job.request_id for each in found] == ["r0"]
    monkeypatch.setattr(module, "_LAPSED_MS", 0)
    while await recorder.record():
        pass
    assert sorted(each.job.request_id for each in found) == [f"r{number}" for number in range(5)]


async def test_recording_goes_on_after_redis_lost_everything(
    own_redis: RedisServer, keys: Keys
) -> None:
    connection = Connection(own_redis.url)
    broker = Broker(connection, keys, max_open_requests=100, result_ttl_s=60)
    await broker.ready("m")
    found: list[Timeline] = []
    recorder = Recorder(EndedRequests(connection, keys), [found.append])
    await end(broker, "first")
    await recorder.record()  # makes the group
    await recorder.record()
    await connection.commands.flushall()
    await broker.ready("m")
    await end(broker, "second")
    await recorder.record()
    await recorder.record()
    await connection.close()
    assert [each.job.request_id for each in found] == ["first", "second"]


async def test_a_foreign_value_keeps_no_request_from_ending(
    broker: Broker, connection: Connection, keys: Keys
) -> None:
    await connection.commands.set(keys.ended, "of another program")
    await end(broker, "r")
    assert await connection.commands.zcard(keys.open_requests) == 0


async def test_the_stream_is_bounded_without_gateways(
    broker: Broker, connection: Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = script_source("prelude") + script_source("close")
    bounded = connection.commands.register_script(
        text.replace("MAX_ENDED = 10000", "MAX_ENDED = 10")
    )
    monkeypatch.setitem(connection.scripts, "close", bounded)
    for number in range(250):
        await end(broker, f"r{number}")
    assert 10 <= await connection.commands.xlen(keys.ended) < 250


async def test_gateways_that_are_gone_leave_no_consumer(
    broker: Broker, connection: Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = EndedRequests(connection, keys)
    await gone.claim()
    await end(broker, "r")
    await gone.done([entry for entry, _ in await gone.claim()])
    monkeypatch.setattr(module, "_FORGET_IDLE_MS", 0)
    await EndedRequests(connection, keys).claim()
    consumers = await connection.commands.xinfo_consumers(keys.ended, "recorders")
    assert gone.consumer.encode() not in [each["name"] for each in consumers]
