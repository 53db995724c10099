"""A language worker claims on while what it claimed before is not ready to be computed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.keys import LM_GROUP
from glm4v.broker.lm_queue import LmQueue, RequestLease
from glm4v.device.arbiter import NoArbiter
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api
from lm_worker.plan import OutputFormat
from lm_worker.structured_output.grammar_cache import GrammarCache
from tests.e2e.journals import read_journal
from tests.integration.engine_worker import MODEL, EngineWorker

LEASE_S = 600.0  # leases lapse only when the test says so
LOOKS_S = 0.1  # how often a worker looks for those
WITHIN_S = 30.0  # of a machine that is busy with other things


class RecordingArbiter(NoArbiter):
    """Remembers the last call."""

    def __init__(self) -> None:
        self.is_prefilling = False

    def set_prefilling(self, is_prefilling: bool) -> None:
        self.is_prefilling = is_prefilling


@dataclass
class Bench:
    """A worker of one engine, and the queue that it works on."""

    connection: Connection
    keys: Keys
    parts: EngineWorker
    arbiter: RecordingArbiter
    broker: Broker

    async def submit(self, name: str, form: str = "") -> None:
        job = pb.Job(
            request_id=name,
            fingerprint=MODEL,
            prompt_ids=[258, 260, 263, 10, 97, 264],
            max_tokens=3,
            timeout_ms=600_000,
            orphan_timeout_ms=600_000,
            content_digest=name.encode(),
            sampling=api.SamplingParams(),
        )
        if form:
            job.response_format.regex = form
        assert await self.broker.submit(job, None)

    async def ended(self, name: str) -> pb.JournalEnd:
        """A request's end; fails when it does not come."""
        with anyio.fail_after(WITHIN_S):
            while True:
                journal = await read_journal(self.connection, self.keys, name)
                if journal is not None and journal.ends:
                    return journal.ends[0]
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """The worker at work; it ends by itself when told to stop."""
        stopping = asyncio.Event()
        await self.parts.engine.start()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self.parts.worker.run, stopping)
                yield
                stopping.set()
        finally:
            self.parts.engine.close()
        assert self.parts.engine.check_integrity() == []


@pytest.fixture
async def bench(connection: Connection, keys: Keys, checkpoint_dir: Callable[[str], Path]) -> Bench:
    folder = checkpoint_dir("micro-glm4v")
    queue = LmQueue(connection, keys, MODEL, lease_s=LEASE_S, result_ttl_s=60)
    await queue.ready()
    arbiter = RecordingArbiter()
    parts = EngineWorker(connection, keys, folder, queue, lease_s=4 * LOOKS_S, arbiter=arbiter)
    broker = Broker(connection, keys, max_open_requests=9, result_ttl_s=60)
    return Bench(connection, keys, parts, arbiter, broker)


async def test_no_request_waits_for_the_response_format_of_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling, may_go_on = asyncio.Event(), asyncio.Event()
    compile_for = GrammarCache.compile_for

    async def slow(
        self: GrammarCache,
        number: int,
        form: OutputFormat,
        answer: tuple[int, ...],
        stop_ids: tuple[int, ...],
    ) -> None:
        compiling.set()
        await may_go_on.wait()
        await compile_for(self, number, form, answer, stop_ids)

    monkeypatch.setattr(GrammarCache, "compile_for", slow)
    async with bench.working():
        await bench.submit("shaped", "[a-c]+")
        with anyio.fail_after(WITHIN_S):
            await compiling.wait()
        for number in range(6):  # one after the other: more than there is room for at a time
            await bench.submit(f"plain {number}")
            assert (await bench.ended(f"plain {number}")).kind == pb.END_KIND_LENGTH
        assert not bench.arbiter.is_prefilling, "vision would wait for it"
        may_go_on.set()
        assert (await bench.ended("shaped")).kind == pb.END_KIND_LENGTH


async def test_a_draining_worker_requeues_a_request_whose_format_compiles(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling = asyncio.Event()

    async def for_ever(*_: object) -> None:
        compiling.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(GrammarCache, "compile_for", for_ever)
    await bench.submit("shaped", "[a-c]+")
    with anyio.fail_after(WITHIN_S):
        async with bench.working():
            await compiling.wait()
    other = LmQueue(bench.connection, bench.keys, MODEL, lease_s=LEASE_S, result_ttl_s=60)
    [lease] = await other.claim(1)
    assert (lease.request_id, lease.prior_attempts) == ("shaped", 0)


async def test_expired_leases_are_claimed_while_a_request_is_isolated(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_trial, may_go_on = asyncio.Event(), asyncio.Event()
    wait_isolated = bench.parts.engine.wait_isolated

    async def long_trial(sequence_id: int) -> None:
        on_trial.set()
        await may_go_on.wait()
        await wait_isolated(sequence_id)

    monkeypatch.setattr(bench.parts.engine, "wait_isolated", long_trial)
    dead = LmQueue(bench.connection, bench.keys, MODEL, lease_s=LEASE_S, result_ttl_s=60)
    for name in ("first", "second"):
        await bench.submit(name)
    leases = {lease.request_id: lease for lease in await dead.claim(2)}
    await lapse(bench, leases["first"])
    async with bench.working():
        with anyio.fail_after(WITHIN_S):
            await on_trial.wait()
            await lapse(bench, leases["second"])
            await taken_over(bench, leases["second"])
        may_go_on.set()
        for name in ("first", "second"):
            assert (await bench.ended(name)).kind == pb.END_KIND_LENGTH


async def lapse(bench: Bench, lease: RequestLease) -> None:
    """Make a lease older than a lease may be."""
    await bench.connection.commands.xclaim(
        bench.keys.jobs_lm(MODEL),
        LM_GROUP,
        await owner(bench, lease),
        0,
        [lease.entry],
        idle=int(2000 * LEASE_S),
        justid=True,
    )


async def taken_over(bench: Bench, lease: RequestLease) -> None:
    """Return when the worker has a lease."""
    while True:
        if await owner(bench, lease) == bench.parts.queue.consumer:
            return
        await asyncio.sleep(0.01)


async def owner(bench: Bench, lease: RequestLease) -> str:
    """The consumer that has a lease."""
    [pending] = await bench.connection.commands.xpending_range(
        bench.keys.jobs_lm(MODEL), LM_GROUP, lease.entry, lease.entry, 1
    )
    consumer: bytes = pending["consumer"]
    return consumer.decode()
