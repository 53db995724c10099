"""The durable queue protocol on a real Redis."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import anyio
import pytest

from glm4v.broker import Broker, Connection, Keys, job_stream
from glm4v.broker.blobs import Blobs
from glm4v.broker.entries import Event
from glm4v.broker.lm_queue import Append, LmQueue, RequestLease
from glm4v.broker.sweeper import STABLE_FOR_S
from glm4v.broker.vision_queue import VisionQueue
from glm4v.errors import IdTaken, Overloaded, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.tensor_bytes import TensorBytes
from glm4v.v1 import inference_pb2
from tests.journal_events import events_of

LEASE_S = 0.5
MARGIN_S = 15.0  # for a machine that is busy with other things
MODEL = "model-a"


def make_job(request_id: str, *, image: bytes = b"", asked: str = "", **times: int) -> pb.Job:
    return pb.Job(
        request_id=request_id,
        fingerprint=MODEL,
        prompt_ids=[1, 2, 3],
        image_digest=hashlib.sha256(image).hexdigest() if image else "",
        max_tokens=4,
        timeout_ms=times.get("timeout_ms", 60_000),
        orphan_timeout_ms=times.get("orphan_timeout_ms", 60_000),
        content_digest=(asked or request_id).encode(),
    )


def tokens(*ids: int) -> pb.JournalTokens:
    return pb.JournalTokens(ids=ids)


def end(kind: "pb.EndKind.ValueType" = pb.END_KIND_LENGTH) -> pb.JournalEnd:
    return pb.JournalEnd(kind=kind)


class Bench:
    """A gateway's and some workers' sides of one fresh namespace."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self.connection = connection
        self.keys = keys
        self.broker = Broker(connection, keys, max_open_requests=3, result_ttl_s=60)
        self.blobs = Blobs(connection, keys)
        self.lm = self.new_lm()
        self.vision = self.new_vision()

    def new_lm(self) -> LmQueue:
        return LmQueue(self.connection, self.keys, MODEL, lease_s=LEASE_S, result_ttl_s=60)

    def new_vision(self) -> VisionQueue:
        return VisionQueue(self.connection, self.keys, MODEL, lease_s=LEASE_S, result_ttl_s=60)

    async def events(self, request_id: str) -> list[Event]:
        with anyio.fail_after(STABLE_FOR_S + MARGIN_S):
            return [event async for event in events_of(self.broker.follow_journal, request_id)]

    async def claim_one(self) -> RequestLease:
        [lease] = await self.lm.claim(1)
        return lease

    async def encode(self, digest: str) -> None:
        """What a vision worker does."""
        [lease] = await self.vision.claim(1)
        assert await self.vision.begin(lease) > 0
        assert lease.job.image_digest == digest
        assert await self.vision.finish(lease, TensorBytes("float32", (1, 2), b"12345678")) > 0

    async def ended(self, request_id: str) -> None:
        """Wait until a request has ended, without reading it."""
        with anyio.fail_after(STABLE_FOR_S + MARGIN_S):
            is_open = True
            while is_open:
                await asyncio.sleep(0.1)
                score = await self.connection.commands.zscore(self.keys.open_requests, request_id)
                is_open = score is not None

    async def pending(self) -> int:
        """Leases that are held, and requests that are open."""
        commands = self.connection.commands
        lm = await commands.xpending(self.keys.jobs_lm(MODEL), "lm")
        vision = await commands.xpending(self.keys.jobs_vision(MODEL), "vision")
        return int(
            lm["pending"] + vision["pending"] + await commands.zcard(self.keys.open_requests)
        )


@pytest.fixture
async def bench(connection: Connection, keys: Keys) -> AsyncIterator[Bench]:
    bench = Bench(connection, keys)
    await bench.broker.ready(MODEL)
    running = asyncio.create_task(bench.broker.run())
    yield bench
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_request_without_an_image_goes_straight_to_the_language_queue(
    bench: Bench,
) -> None:
    assert await bench.broker.submit(make_job("r"), None)
    lease = await bench.claim_one()
    resumed = await bench.lm.resume_or_release(lease)
    assert resumed is not None
    assert (lease.request_id, resumed.token_ids) == ("r", ())
    assert await bench.lm.append([Append(lease, 0, tokens(5, 6))]) == ["ok"]
    assert await bench.lm.append([Append(lease, 2, tokens(7), end())]) == ["ok"]
    events = await bench.events("r")
    ids = [i for event in events if isinstance(event, pb.JournalTokens) for i in event.ids]
    assert ids == [5, 6, 7]
    assert isinstance(events[-1], pb.JournalEnd)
    assert await bench.pending() == 0


async def test_the_same_request_attaches_and_another_with_its_id_is_refused(bench: Bench) -> None:
    assert await bench.broker.submit(make_job("r", asked="x"), None)
    assert not await bench.broker.submit(make_job("r", asked="x"), None)
    with pytest.raises(IdTaken, match="'r'"):
        await bench.broker.submit(make_job("r", asked="y"), None)


async def test_gateways_of_two_releases_know_each_others_requests(bench: Bench) -> None:
    def of_this_release(name: str) -> pb.Job:
        job = make_job(name, asked="new form")
        job.former_digest = b"old form"
        return job

    assert await bench.broker.submit(make_job("first", asked="old form"), None)
    assert not await bench.broker.submit(of_this_release("first"), None)
    assert await bench.broker.submit(of_this_release("second"), None)
    assert not await bench.broker.submit(make_job("second", asked="old form"), None)
    with pytest.raises(IdTaken):
        await bench.broker.submit(make_job("second", asked="another"), None)
    other = of_this_release("second")
    other.content_digest, other.former_digest = b"another", b""
    with pytest.raises(IdTaken):
        await bench.broker.submit(other, None)


async def test_requests_above_the_bound_are_refused_with_the_numbers(bench: Bench) -> None:
    for name in "abc":
        await bench.broker.submit(make_job(name), None)
    with pytest.raises(Overloaded, match=r"3 requests are open \(limit 3\)"):
        await bench.broker.submit(make_job("d"), None)
    with pytest.raises(Overloaded, match=r"3 requests are open \(limit 3\)"):
        await bench.broker.submit(make_job("e", image=b"image"), b"image")
    digest = hashlib.sha256(b"image").hexdigest()
    assert await bench.blobs.image(digest) is None
    assert not await bench.broker.submit(make_job("c"), None)


async def test_an_unknown_digest_is_refused(bench: Bench) -> None:
    with pytest.raises(UnknownReference, match="send its bytes"):
        await bench.broker.submit(make_job("r", image=b"never sent"), None)


async def test_an_image_asked_about_by_many_is_encoded_once(bench: Bench) -> None:
    image = b"image"
    jobs = [make_job(name, image=image) for name in "abc"]
    for job in jobs:
        await bench.broker.submit(job, image)
    [lease] = await bench.vision.claim(8)
    assert await bench.vision.begin(lease) == 3
    assert await bench.vision.finish(lease, TensorBytes("float32", (1, 2), b"12345678")) == 3
    assert {lease.request_id for lease in await bench.lm.claim(8)} == {"a", "b", "c"}
    assert await bench.vision.claim(8) == []


async def test_with_the_embedding_stored_the_image_is_not_encoded_again(bench: Bench) -> None:
    job = make_job("a", image=b"image")
    await bench.broker.submit(job, b"image")
    await bench.encode(job.image_digest)
    await bench.broker.submit(make_job("b", image=b"image"), None)
    assert {lease.request_id for lease in await bench.lm.claim(8)} == {"a", "b"}


async def test_a_lost_embedding_sends_the_request_back_to_vision(bench: Bench) -> None:
    job = make_job("r", image=b"image")
    await bench.broker.submit(job, b"image")
    await bench.encode(job.image_digest)
    await bench.blobs.delete_embedding(MODEL, job.image_digest)
    await bench.lm.await_encode(await bench.claim_one(), job)
    await bench.encode(job.image_digest)
    assert (await bench.claim_one()).request_id == "r"


async def test_a_corrupt_embedding_is_deleted(bench: Bench) -> None:
    await bench.blobs.put_embedding(MODEL, "d", TensorBytes("float32", (2,), b"12345678"))
    key = bench.keys.embedding(MODEL, "d")
    await bench.connection.bulk.setrange(key, 40, b"\x00")
    assert await bench.blobs.embedding(MODEL, "d") is None
    assert not await bench.connection.commands.exists(key)


async def test_an_image_nobody_waits_for_is_dropped(bench: Bench) -> None:
    await bench.broker.submit(make_job("r", image=b"image"), b"image")
    await bench.broker.close_request("r", end(pb.END_KIND_CANCELLED))
    [lease] = await bench.vision.claim(1)
    assert await bench.vision.begin(lease) == 0
    assert await bench.pending() == 0


async def test_an_image_that_cannot_be_encoded_fails_all_who_wait(bench: Bench) -> None:
    for name in "ab":
        await bench.broker.submit(make_job(name, image=b"noise"), b"noise")
    [lease] = await bench.vision.claim(1)
    assert await bench.vision.fail(lease, "INVALID_ARGUMENT", "not an image") == 2
    for name in "ab":
        last = (await bench.events(name))[-1]
        assert isinstance(last, pb.JournalEnd)
        assert (last.code, last.message) == ("INVALID_ARGUMENT", "not an image")
    assert await bench.pending() == 0


async def test_a_worker_whose_lease_was_taken_over_cannot_append(bench: Bench) -> None:
    await bench.broker.submit(make_job("r"), None)
    lease = await bench.claim_one()
    await bench.lm.append([Append(lease, 0, tokens(5))])
    await asyncio.sleep(1.2 * LEASE_S)
    other = bench.new_lm()
    [taken] = await other.claim_expired(1)
    assert taken.prior_attempts == 1
    resumed = await other.resume_or_release(taken)
    assert resumed is not None
    assert resumed.token_ids == (5,)
    assert await bench.lm.append([Append(lease, 1, tokens(9))]) == ["lost"]
    assert await bench.lm.renew([lease]) == ["lost"]
    assert await other.append([Append(taken, 1, tokens(6), end())]) == ["ok"]


async def test_a_renewed_lease_is_not_taken_over(bench: Bench) -> None:
    await bench.broker.submit(make_job("r"), None)
    lease = await bench.claim_one()
    for _ in range(4):
        await asyncio.sleep(0.4 * LEASE_S)
        assert await bench.lm.renew([lease]) == ["ok"]
    assert await bench.new_lm().claim_expired(1) == []


async def test_a_lapsed_lease_is_found_behind_many_that_live(bench: Bench) -> None:
    broker = Broker(bench.connection, bench.keys, max_open_requests=100, result_ttl_s=60)
    for number in range(40):
        await broker.submit(make_job(f"r{number}"), None)
    living = await bench.lm.claim(39)
    [lost] = await bench.new_lm().claim(1)
    await asyncio.sleep(1.2 * LEASE_S)
    await bench.lm.renew(living)
    assert [lease.entry for lease in await bench.new_lm().claim_expired(1)] == [lost.entry]


async def test_a_stage_is_written_once_however_often_it_is_asked_for(bench: Bench) -> None:
    await bench.broker.submit(make_job("r"), None)
    lease = await bench.claim_one()
    trial = pb.JournalStage(stage=inference_pb2.STAGE_RUNNING, at_ms=1, isolated=True)
    for _ in range(3):  # the first two answers were lost
        assert await bench.lm.renew([lease], trial) == ["ok"]
    resumed = await bench.lm.resume_or_release(lease)
    assert resumed is not None
    assert resumed.isolated_failures == 1


async def test_a_lease_that_lapsed_and_came_back_is_another_lease(bench: Bench) -> None:
    await bench.broker.submit(make_job("r"), None)
    lease = await bench.claim_one()
    await asyncio.sleep(1.2 * LEASE_S)
    other = bench.new_lm()
    [theirs] = await other.claim_expired(1)
    assert await other.append([Append(theirs, 0, tokens(5))]) == ["ok"]
    await asyncio.sleep(1.2 * LEASE_S)
    [again] = await bench.lm.claim_expired(1)
    assert again.entry == lease.entry
    assert await bench.lm.append([Append(lease, 0, tokens(5, 6))]) == ["lost"]
    assert await bench.lm.renew([lease]) == ["lost"]
    assert await bench.lm.append([Append(again, 1, tokens(6))]) == ["ok"]


async def test_a_trial_that_is_handed_back_in_time_does_not_count(bench: Bench) -> None:
    await bench.broker.submit(make_job("r"), None)
    seen = []
    for number, hands_back in enumerate((True, False, True, False)):
        trial = pb.JournalStage(stage=inference_pb2.STAGE_RUNNING, at_ms=number, isolated=True)
        queue = bench.new_lm()
        leases = await queue.claim(1, wait_s=0.01) or await queue.claim_expired(1)
        resumed = await queue.resume_or_release(leases[0])
        assert resumed is not None
        seen.append(resumed.isolated_failures)
        assert await queue.renew(leases, trial) == ["ok"]
        if hands_back:
            assert await queue.requeue(leases) == 1
        else:
            await asyncio.sleep(1.2 * LEASE_S)
    assert seen == [0, 0, 1, 1]


async def test_an_append_that_is_repeated_adds_nothing(bench: Bench) -> None:
    await bench.broker.submit(make_job("r"), None)
    lease = await bench.claim_one()
    append = Append(lease, 0, tokens(5))
    assert await bench.lm.append([append]) == ["ok"]
    assert await bench.lm.append([append]) == ["ok"]
    resumed = await bench.lm.resume_or_release(lease)
    assert resumed is not None
    assert resumed.token_ids == (5,)
    assert await bench.lm.append([Append(lease, 3, tokens(6))]) == ["behind"]
    assert await bench.lm.append([Append(lease, 1, tokens(6, 7))]) == ["ok"]
    assert await bench.lm.append([append]) == ["ahead"]


async def test_one_refusal_does_not_touch_the_others_of_a_step(bench: Bench) -> None:
    for name in "ab":
        await bench.broker.submit(make_job(name), None)
    first, second = await bench.lm.claim(2)
    await bench.broker.close_request(first.request_id, end(pb.END_KIND_CANCELLED))
    appends = [Append(first, 0, tokens(5)), Append(second, 0, tokens(6))]
    assert await bench.lm.append(appends) == ["closed", "ok"]
    assert len(await bench.events(first.request_id)) == 3


async def test_the_first_end_wins(bench: Bench) -> None:
    await bench.broker.submit(make_job("r"), None)
    assert await bench.broker.close_request("r", end(pb.END_KIND_CANCELLED))
    assert not await bench.broker.close_request("r", end(pb.END_KIND_EXPIRED))
    ends = [e for e in await bench.events("r") if isinstance(e, pb.JournalEnd)]
    assert [e.kind for e in ends] == [pb.END_KIND_CANCELLED]
    assert await bench.lm.resume_or_release(await bench.claim_one()) is None
    assert await bench.pending() == 0


async def test_handed_back_requests_are_claimed_at_once_with_their_lives(bench: Bench) -> None:
    await bench.broker.submit(make_job("r"), None)
    lease = await bench.claim_one()
    await bench.lm.append([Append(lease, 0, tokens(5))])
    assert await bench.lm.requeue([lease]) == 1
    assert await bench.lm.append([Append(lease, 1, tokens(6))]) == ["lost"]
    [again] = await bench.new_lm().claim(1)
    assert (again.request_id, again.prior_attempts) == ("r", 0)


async def test_what_is_overdue_is_ended_and_what_nobody_reads(bench: Bench) -> None:
    await bench.broker.submit(make_job("late", timeout_ms=100), None)
    await bench.broker.submit(make_job("alone", orphan_timeout_ms=100), None)
    await bench.broker.submit(make_job("read", orphan_timeout_ms=100), None)
    reading = asyncio.create_task(bench.events("read"))
    for name, kind in (("late", pb.END_KIND_EXPIRED), ("alone", pb.END_KIND_ABANDONED)):
        await bench.ended(name)
        last = (await bench.events(name))[-1]
        assert isinstance(last, pb.JournalEnd)
        assert last.kind == kind
    await asyncio.sleep(1.5)  # a sweep more
    assert not reading.done()
    await bench.broker.close_request("read", end())
    assert len(await reading) == 3


async def test_readers_see_the_stages_of_their_image(bench: Bench) -> None:
    job = make_job("a", image=b"image")
    await bench.broker.submit(job, b"image")
    [lease] = await bench.vision.claim(1)
    await bench.vision.begin(lease)
    await bench.broker.submit(make_job("late", image=b"image"), b"image")
    await bench.vision.finish(lease, None)
    for name in ("a", "late"):
        await bench.broker.close_request(name, end())
        stages = [e.stage for e in await bench.events(name) if isinstance(e, pb.JournalStage)]
        assert stages == [
            inference_pb2.STAGE_QUEUED,
            inference_pb2.STAGE_ENCODING,
            inference_pb2.STAGE_QUEUED,
        ]


async def test_reading_an_unknown_request_says_so(bench: Bench) -> None:
    with pytest.raises(UnknownReference, match="'nobody'"):
        await bench.events("nobody")


async def names(bench: Bench) -> set[str]:
    """Of the workers that the language queue knows."""
    found = await bench.connection.commands.xinfo_consumers(bench.keys.jobs_lm(MODEL), "lm")
    return {each["name"].decode() for each in found}


async def test_workers_that_are_gone_are_forgotten_unless_they_hold_something(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding, gone, asking = bench.new_lm(), bench.new_lm(), bench.new_lm()
    for name, queue in (("held", holding), ("done", gone)):
        await bench.broker.submit(make_job(name), None)
        [lease] = await queue.claim(1)
    await gone.append([Append(lease, 0, tokens(5), end())])
    await asyncio.sleep(1.2 * LEASE_S)
    waiting = asyncio.create_task(asking.claim(1, wait_s=5))
    await asyncio.sleep(0.1)
    monkeypatch.setattr(job_stream, "_FORGET_EVERY_S", 0.0)
    monkeypatch.setattr(job_stream, "_FORGET_IDLE_S", LEASE_S)
    assert await names(bench) >= {holding.consumer, gone.consumer}
    assert await bench.lm.claim_expired(0) == []
    left = await names(bench)
    assert holding.consumer in left, "with its name its lease would go"
    assert gone.consumer not in left
    monkeypatch.setattr(job_stream, "_FORGET_IDLE_S", 0.0)
    assert await bench.lm.claim_expired(0) == []
    assert asking.consumer not in await names(bench)
    await bench.broker.submit(make_job("new"), None)
    [lease] = await waiting
    assert await asking.append([Append(lease, 0, tokens(5), end())]) == ["ok"]
    [taken] = await bench.lm.claim_expired(1)
    assert taken.request_id == "held"


async def test_a_queue_that_is_gone_is_made_again_and_its_leases_are_lost(bench: Bench) -> None:
    image = b"image"
    await bench.broker.submit(make_job("r"), None)
    await bench.broker.submit(make_job("p", image=image), image)
    lease, [vision_lease] = await bench.claim_one(), await bench.vision.claim(1)
    commands, keys = bench.connection.commands, bench.keys
    await commands.delete(
        keys.jobs_lm(MODEL), keys.jobs_vision(MODEL), keys.journal("r"), keys.journal("p")
    )
    assert await bench.lm.append([Append(lease, 0, tokens(5))]) == ["lost"]
    assert await bench.lm.renew([lease]) == ["lost"]
    assert await bench.lm.requeue([lease]) == 0
    assert await bench.lm.resume_or_release(lease) is None
    assert await bench.vision.renew(vision_lease) == -1
    assert await bench.vision.finish(vision_lease, TensorBytes("float32", (0,), b"")) == -1
    for ask in (
        bench.lm.claim,
        bench.lm.claim_expired,
        bench.vision.claim,
        bench.vision.claim_expired,
    ):
        await commands.delete(keys.jobs_lm(MODEL), keys.jobs_vision(MODEL))
        assert await ask(1) == []
    await bench.broker.submit(make_job("next"), None)
    assert await bench.lm.claim(1) == []
    assert (await bench.claim_one()).request_id == "next", "it came before the group was there"
