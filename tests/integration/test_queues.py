"""Queues of several models: who claims what, and what becomes of a queue without workers."""

import asyncio
import hashlib

import anyio
import pytest

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.clock import RedisClock
from glm4v.broker.keys import LM_GROUP, VISION_GROUP, lm_queue
from glm4v.broker.lm_queue import Append, LmQueue
from glm4v.broker.sweeper import Sweeper
from glm4v.broker.unserved import DROP_AFTER_MS, UnservedQueues
from glm4v.broker.vision_queue import VisionQueue
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.tensor_bytes import TensorBytes
from tests.integration.test_broker import MODEL, Bench, bench, make_job, tokens
from tests.queues import left_behind, streams

__all__ = ["bench"]  # the fixture

OTHER = "model-b"
IMAGE = b"image"
DIGEST = hashlib.sha256(IMAGE).hexdigest()
EMBEDDING = TensorBytes("float32", (1, 2), b"12345678")


def job_for(
    fingerprint: str, request_id: str, *, image: bytes = b"", timeout_ms: int = 60_000
) -> pb.Job:
    job = make_job(request_id, image=image, timeout_ms=timeout_ms)
    job.fingerprint = fingerprint
    return job


async def test_workers_claim_the_jobs_of_their_own_model(bench: Bench) -> None:
    other = LmQueue(bench.connection, bench.keys, OTHER, lease_s=60, result_ttl_s=60)
    await other.ready()
    await bench.broker.submit(job_for(MODEL, "a"), None)
    await bench.broker.submit(job_for(OTHER, "b"), None)
    [lease] = await other.claim(8)
    assert lease.request_id == "b"
    assert (await bench.claim_one()).request_id == "a"
    assert await other.append([Append(lease, 0, tokens(5), pb.JournalEnd())]) == ["ok"]


async def test_one_image_is_encoded_for_each_model(bench: Bench) -> None:
    other = VisionQueue(bench.connection, bench.keys, OTHER, lease_s=60, result_ttl_s=60)
    await other.ready()
    await bench.broker.submit(job_for(MODEL, "a", image=IMAGE), IMAGE)
    await bench.broker.submit(job_for(OTHER, "b", image=IMAGE), None)
    [lease] = await other.claim(8)
    assert await other.begin(lease) == 1
    assert await other.finish(lease, EMBEDDING) == 1
    assert await bench.blobs.embedding(MODEL, DIGEST) is None
    await bench.encode(DIGEST)
    assert (await bench.claim_one()).request_id == "a"


async def test_limits_count_all_models_of_a_namespace(bench: Bench) -> None:
    for number in range(3):
        await bench.broker.submit(job_for(f"model-{number}", f"r{number}"), None)
    assert await bench.connection.commands.zcard(bench.keys.open_requests) == 3


async def test_an_expired_request_says_which_worker_is_missing(bench: Bench) -> None:
    await bench.broker.submit(job_for(OTHER, "text", timeout_ms=100), None)
    await bench.broker.submit(job_for(OTHER, "image", image=IMAGE, timeout_ms=100), IMAGE)
    await bench.lm.ready()
    await bench.broker.submit(job_for(MODEL, "served", timeout_ms=100), None)
    said = {}
    for name in ("text", "image", "served"):
        end = (await bench.events(name))[-1]
        assert isinstance(end, pb.JournalEnd)
        assert end.kind == pb.END_KIND_EXPIRED
        said[name] = end.message
    assert said == {
        "text": f"no language worker of model {OTHER} is running",
        "image": f"no vision worker of model {OTHER} is running",
        "served": "",
    }


async def test_jobs_of_ended_requests_do_not_pile_up_without_workers(bench: Bench) -> None:
    end = pb.JournalEnd(kind=pb.END_KIND_CANCELLED)
    for number in range(20):
        image = IMAGE if number % 2 else b""
        await bench.broker.submit(job_for(OTHER, f"r{number}", image=image), image or None)
        await bench.broker.close_request(f"r{number}", end)
    await bench.broker.submit(job_for(OTHER, "open"), None)
    await UnservedQueues(bench.connection, bench.keys).prune()
    commands, keys = bench.connection.commands, bench.keys
    assert await commands.xlen(keys.jobs_lm(OTHER)) <= 1
    assert await commands.xlen(keys.jobs_vision(OTHER)) == 0
    assert await commands.keys(keys.encode_waiters(OTHER, "*")) == []
    other = LmQueue(bench.connection, bench.keys, OTHER, lease_s=60, result_ttl_s=60)
    await other.ready()
    assert [lease.request_id for lease in await other.claim(8)] == ["open"]


async def test_a_queue_is_deleted_when_no_worker_uses_it(bench: Bench) -> None:
    commands, keys = bench.connection.commands, bench.keys
    await bench.lm.ready()
    await bench.vision.ready()
    await bench.broker.ready(OTHER)
    await bench.broker.submit(job_for("model-c", "waits"), None)
    for model in (OTHER, "model-c"):
        await commands.zincrby(keys.queues, -DROP_AFTER_MS, lm_queue(model))
    await UnservedQueues(bench.connection, keys).prune()
    left = {stream for stream, _ in await streams(bench.connection, keys)}
    assert keys.jobs_lm(OTHER) not in left, "empty, and no worker was seen"
    assert not await commands.exists(keys.jobs_lm(OTHER))
    assert {keys.jobs_lm(MODEL), keys.jobs_vision(MODEL), keys.jobs_lm("model-c")} <= left
    # A worker that comes back creates it again.
    other = LmQueue(bench.connection, keys, OTHER, lease_s=60, result_ttl_s=60)
    assert await other.claim(1, wait_s=0.01) == []
    await bench.broker.submit(job_for(OTHER, "next"), None)
    assert [lease.request_id for lease in await other.claim(1)] == ["next"]


async def test_a_worker_is_seen_while_it_has_no_room_for_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glm4v.broker.job_stream._SEEN_EVERY_S", 0.0)
    await bench.broker.submit(make_job("r"), None)
    lease = await bench.claim_one()
    queues = bench.keys.queues
    before = await bench.connection.commands.zscore(queues, lm_queue(MODEL))
    await asyncio.sleep(0.01)
    assert await bench.lm.renew([lease]) == ["ok"]
    assert await bench.connection.commands.zscore(queues, lm_queue(MODEL)) > before


class Former:
    """What the previous release has left in Redis: one queue for all models, other names."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._commands = connection.commands
        self._keys = keys
        self._prefix = f"{{{keys.namespace}}}"

    async def leave(self) -> None:
        """Three open requests: one queued, one running, one waiting for its image; and a letter."""
        for name in ("queued", "running", "waiting"):
            job = job_for(MODEL, name, image=IMAGE if name == "waiting" else b"")
            accepted = pb.JournalAccepted(job=job).SerializeToString()
            journal = self._keys.journal(name)
            fields = {"k": "a", "n": 0, "c": job.content_digest, "d": accepted, "v": 1}
            await self._commands.xadd(journal, fields)
            await self._commands.zadd(f"{self._prefix}:open", {name: 10**14})
            await self._commands.zadd(f"{self._prefix}:readers", {name: 10**14})
        await self._commands.xadd(
            self._keys.journal("running"),
            {"k": "t", "n": 1, "d": tokens(5).SerializeToString()},
        )
        jobs = f"{self._prefix}:jobs:lm"
        await self._commands.xgroup_create(jobs, LM_GROUP, id="0", mkstream=True)
        await self._commands.xadd(jobs, {"r": "running", "l": 1, "v": 1})
        await self._commands.xreadgroup(LM_GROUP, "killed", {jobs: ">"}, count=1)
        await self._commands.xadd(jobs, {"r": "queued", "l": 0, "v": 1})
        await self._commands.xadd(jobs, {"r": "ended", "l": 0, "v": 1})
        vision = pb.VisionJob(image_digest=DIGEST, fingerprint=MODEL).SerializeToString()
        images = f"{self._prefix}:jobs:vision"
        await self._commands.xgroup_create(images, VISION_GROUP, id="0", mkstream=True)
        await self._commands.xadd(images, {"d": vision, "v": 1})
        await self._commands.hset(f"{self._prefix}:flight:{MODEL}:{DIGEST}", "waiting", 1)
        await self._commands.set(self._keys.image(DIGEST), IMAGE)
        await self._commands.hset(self._keys.pins, "waiting", DIGEST)
        await self._commands.xadd(f"{self._prefix}:dead", {"r": "x", "d": b"", "m": "why"})

    async def left(self) -> list[bytes]:
        """Keys that only the previous release knows."""
        names = ("open", "readers", "jobs:lm", "jobs:vision", "dead", "flight:*")
        found = [await self._commands.keys(f"{self._prefix}:{name}") for name in names]
        return [key for keys in found for key in keys]


@pytest.fixture
async def former(connection: Connection, keys: Keys) -> Former:
    former = Former(connection, keys)
    await former.leave()
    return former


async def test_open_requests_of_the_previous_release_are_queued_again(
    former: Former, connection: Connection, keys: Keys
) -> None:
    brokers = [Broker(connection, keys, max_open_requests=9, result_ttl_s=60) for _ in range(2)]
    async with anyio.create_task_group() as group:  # two gateways start at once
        for broker in brokers:
            group.start_soon(broker.ready, MODEL)
    assert await former.left() == []
    lm = LmQueue(connection, keys, MODEL, lease_s=60, result_ttl_s=60)
    vision = VisionQueue(connection, keys, MODEL, lease_s=60, result_ttl_s=60)
    leases = {lease.request_id: lease for lease in await lm.claim(9)}
    assert {name: lease.prior_attempts for name, lease in leases.items()} == {
        "queued": 0,
        "running": 2,
        "waiting": 0,
    }
    resumed = await lm.resume_or_release(leases["running"])
    assert resumed is not None
    assert resumed.token_ids == (5,)
    waiting = await lm.resume_or_release(leases["waiting"])
    assert waiting is not None
    await lm.await_encode(leases["waiting"], waiting.job)
    [image] = await vision.claim(1)
    assert await vision.begin(image) == 1
    assert await vision.finish(image, EMBEDDING) == 1
    leases |= {lease.request_id: lease for lease in await lm.claim(9)}
    for name, first in (("queued", 0), ("running", 1), ("waiting", 0)):
        end = pb.JournalEnd(kind=pb.END_KIND_LENGTH, token_count=first + 1)
        assert await lm.append([Append(leases[name], first, tokens(6), end)]) == ["ok"]
    assert await left_behind(connection, keys) == []
    assert await connection.commands.xlen(keys.dead_letters) == 1


async def test_taking_over_the_previous_release_goes_on_after_a_crash(
    former: Former, connection: Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = connection.run, 0

    async def crash(script: str, *args: object) -> object:
        nonlocal calls
        calls += script == "adopt"
        if calls == 2:
            raise ConnectionError("killed")
        return await run(script, *args)  # type: ignore[arg-type]

    broker = Broker(connection, keys, max_open_requests=9, result_ttl_s=60)
    monkeypatch.setattr(connection, "run", crash)
    with pytest.raises(ConnectionError):
        await broker.ready(MODEL)
    monkeypatch.undo()
    await broker.ready(MODEL)
    assert await former.left() == []
    lm = LmQueue(connection, keys, MODEL, lease_s=60, result_ttl_s=60)
    assert sorted(lease.request_id for lease in await lm.claim(9)) == [
        "queued",
        "running",
        "waiting",
    ]


async def test_a_sweep_prunes(bench: Bench) -> None:
    await bench.broker.submit(job_for(OTHER, "r"), None)
    await bench.broker.close_request("r", pb.JournalEnd(kind=pb.END_KIND_CANCELLED))
    sweeper = Sweeper(
        bench.connection,
        bench.keys,
        RedisClock(bench.connection, bench.keys),
        first_job=bench.broker.job,
        close=bench.broker.close_request,
    )
    await sweeper.sweep()
    assert await bench.connection.commands.xlen(bench.keys.jobs_lm(OTHER)) == 0
