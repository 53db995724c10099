"""Requests of several clients on one queue: each has its turn and its part of what may be open."""

from functools import partial

import pytest

from gateway.metrics import register_metrics
from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.lm_queue import Append, RequestLease
from glm4v.broker.queue_lengths import queue_lengths
from glm4v.errors import Overloaded
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.process.grpc_listener import GrpcListener
from glm4v.telemetry.metrics import Registry
from tests.integration.test_broker import MODEL, Bench, end, make_job, tokens


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


async def claim(bench: Bench, capacity: int) -> list[RequestLease]:
    return await bench.lm.claim(capacity, wait_s=0)


async def names(bench: Bench, capacity: int) -> list[str]:
    return [lease.request_id for lease in await claim(bench, capacity)]


async def test_clients_take_turns_however_many_requests_each_has(bench: Bench) -> None:
    await ask(bench, "many", *(f"m{number}" for number in range(6)))
    await ask(bench, "one", "o0")
    await ask(bench, "two", "t0", "t1")
    # The first came while a worker may have been idle.
    assert await names(bench, 3) == ["m0", "m1", "o0"]
    assert await names(bench, 9) == ["t0", "m2", "t1", "m3", "m4", "m5"]
    assert await names(bench, 9) == []


async def no_workers() -> dict[tuple[str, str], int]:
    return {}


async def test_metrics_tell_what_is_in_the_streams_and_how_many_clients_wait(
    bench: Bench, connection: Connection, keys: Keys
) -> None:
    registry = Registry()
    lengths = partial(queue_lengths, connection, keys, MODEL)
    register_metrics(registry, GrpcListener("unix:unused"), lengths, {}, no_workers)

    async def read(*waiting: int) -> dict[str, list[float]]:
        metrics = await registry.collect()
        found = {each.name: [sample.value for sample in each.samples] for each in metrics[4:]}
        waited_s = found.pop("glm4v_queue_oldest_seconds")
        assert all(0 < each < 60 for each, jobs in zip(waited_s, waiting, strict=True) if jobs)
        assert all(each == 0 for each, jobs in zip(waited_s, waiting, strict=True) if not jobs)
        return found

    await ask(bench, "many", "m0", "m1", "m2")
    await ask(bench, "one", "o0")
    await ask(bench, "two", "t0", image=b"image")
    assert await read(3, 1) == {
        "glm4v_open_requests": [5],
        "glm4v_queue_jobs": [1, 1],  # m0, and the image of t0
        "glm4v_queue_waiting_jobs": [4, 1],
        "glm4v_queue_waiting_clients": [2],
    }
    assert len(await names(bench, 9)) == 4
    assert await read(0, 1) == {
        "glm4v_open_requests": [5],
        "glm4v_queue_jobs": [4, 1],
        "glm4v_queue_waiting_jobs": [0, 1],
        "glm4v_queue_waiting_clients": [0],
    }


async def test_a_request_that_comes_later_goes_before_the_line_of_another_client(
    bench: Bench,
) -> None:
    await ask(bench, "many", *(f"m{number}" for number in range(9)))
    assert await names(bench, 4) == ["m0", "m1", "m2", "m3"]
    await ask(bench, "one", "o0")
    assert "o0" in await names(bench, 2)


async def test_one_request_of_a_client_is_claimed_before_its_turn(bench: Bench) -> None:
    await ask(bench, "many", *(f"m{number}" for number in range(4)))
    await ask(bench, "one", "o0", "o1")
    assert await names(bench, 1) == ["m0"]
    assert await bench.lm.waiting_clients() == ["many", "one"]
    [lease] = await bench.lm.claim_of(["one"])
    assert lease.request_id == "o0"
    assert await bench.lm.claim_of(["nobody"]) == []
    assert await names(bench, 9) == ["m1", "o1", "m2", "m3"]
    assert await bench.lm.waiting_clients() == []


async def test_requests_whose_image_was_encoded_wait_in_the_line_of_their_client(
    bench: Bench,
) -> None:
    await ask(bench, "many", "m0", "m1", "m2", image=b"image")
    digest = make_job("", image=b"image").image_digest
    await bench.encode(digest)
    await ask(bench, "one", "o0")
    assert await names(bench, 1) == ["m0"]
    assert set(await names(bench, 2)) == {"m1", "o0"}


async def test_a_requeued_request_is_the_first_of_its_client(bench: Bench) -> None:
    await ask(bench, "many", *(f"m{number}" for number in range(4)))
    leases = await claim(bench, 2)
    assert await bench.lm.requeue(leases[1:]) == 1
    assert await names(bench, 2) == ["m1", "m2"]


async def test_a_request_that_ended_in_its_line_is_not_claimed(bench: Bench) -> None:
    await ask(bench, "many", "m0", "m1", "m2")
    await bench.broker.close_request("m1", end(pb.END_KIND_CANCELLED))
    assert await names(bench, 9) == ["m0", "m2"]


async def test_one_client_may_have_half_of_the_open_requests(bench: Bench) -> None:
    await ask(bench, "many", *(f"m{number}" for number in range(20)))
    with pytest.raises(Overloaded, match=r"20 requests of this client are open \(limit 20\)"):
        await ask(bench, "many", "m20")
    with pytest.raises(Overloaded, match="20 requests of this client"):
        await ask(bench, "many", "m20", image=b"image")
    await ask(bench, "one", "o0")
    [lease] = await claim(bench, 1)
    assert await bench.lm.append([Append(lease, 0, tokens(5), end())]) == ["ok"]
    await ask(bench, "many", "m20")
    await ask(
        bench, "", *(f"u{number}" for number in range(19))
    )  # unknown: no limit but that of all
    with pytest.raises(Overloaded, match="40 requests are open"):
        await ask(bench, "", "u19")
