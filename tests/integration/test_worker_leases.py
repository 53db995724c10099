"""What a language worker does with requests that come back to it, and when a rank is lost."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.entries import read_entry
from glm4v.broker.keys import LM_GROUP
from glm4v.broker.lm_queue import LmQueue
from glm4v.errors import Unavailable
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api
from lm_worker.engine.sequence import TokenOutput
from lm_worker.plan import SampledToken
from lm_worker.publisher import LeasedRequest, Publisher
from tests.e2e.journals import Journal, read_journal
from tests.integration.engine_worker import MODEL, EngineWorker
from tests.parity.engine_runs import GOLDEN_TOKENS
from tests.parity.golden_plans import cases, open_golden

LEASE_S = 600.0  # leases lapse only when the test says so
KNOWN = 3  # tokens in the journal when it does
NAME = "request"


async def lapse(connection: Connection, keys: Keys) -> None:
    """Make the one lease there is older than a lease may be."""
    commands = connection.commands
    [entry] = await commands.xpending_range(keys.jobs_lm(MODEL), LM_GROUP, "-", "+", 2)
    ids, idle = [entry["message_id"]], int(2000 * LEASE_S)
    await commands.xclaim(
        keys.jobs_lm(MODEL), LM_GROUP, entry["consumer"], 0, ids, idle=idle, justid=True
    )


class Late:
    """Publishes one token only when its request's lease has lapsed and was claimed anew."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection, self._keys = connection, keys
        self.parts: EngineWorker
        self.taking_over: asyncio.Task[None] | None = None
        self.written: list[list[int]] = []  # in the journal before and after the late token

    async def publish(self, tokens: Sequence[TokenOutput]) -> set[int]:
        if tokens[0].index != KNOWN or self.taking_over is not None:
            return await self.parts.publisher.publish(tokens)
        self.taking_over = asyncio.create_task(self._lapse_and_take_over())
        before = await self.journal("isolated_runs")
        refused = await self.parts.publisher.publish(tokens)
        self.written = [before.token_ids, (await self.journal("token_ids")).token_ids]
        return refused

    async def _lapse_and_take_over(self) -> None:
        await lapse(self._connection, self._keys)
        for lease in await self.parts.queue.claim_expired(1):
            await self.parts.claimer._admit(lease)

    async def journal(self, part: str) -> Journal:
        """Of the one request, once it has this."""
        while True:
            journal = await read_journal(self._connection, self._keys, NAME)
            if journal is not None and getattr(journal, part):
                return journal
            await asyncio.sleep(0.01)


@dataclass
class Bench:
    """A queue with one request."""

    connection: Connection
    keys: Keys
    queue: LmQueue
    folder: Path
    expected: list[int]

    def worker(self, sink: Late | None = None) -> EngineWorker:
        """A worker for it."""
        return EngineWorker(
            self.connection, self.keys, self.folder, self.queue, lease_s=LEASE_S, sink=sink
        )


@pytest.fixture
async def bench(connection: Connection, keys: Keys, checkpoint_dir: Callable[[str], Path]) -> Bench:
    golden, folder = open_golden("bundled"), checkpoint_dir("micro-glm4v")
    text = next(case for case in cases(golden) if f"{case}/vision_embeddings" not in golden)
    queue = LmQueue(connection, keys, MODEL, lease_s=LEASE_S, result_ttl_s=60)
    await queue.ready()
    job = pb.Job(
        request_id=NAME,
        fingerprint=MODEL,
        prompt_ids=[int(i) for i in golden[f"{text}/input_ids"]],
        max_tokens=GOLDEN_TOKENS,
        timeout_ms=60_000,
        orphan_timeout_ms=60_000,
        content_digest=b"asked",
        sampling=api.SamplingParams(),
    )
    broker = Broker(connection, keys, max_open_requests=3, result_ttl_s=60)
    assert await broker.submit(job, None)
    return Bench(connection, keys, queue, folder, golden[f"{text}/greedy_tokens"].tolist())


async def test_a_late_token_of_the_old_sequence_is_dropped(
    bench: Bench, connection: Connection, keys: Keys
) -> None:
    late = Late(connection, keys)
    parts = late.parts = bench.worker(late)
    stopping = asyncio.Event()
    await parts.engine.start()
    try:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(parts.worker.run, stopping)
                journal = await late.journal("ends")
                stopping.set()
    finally:
        parts.engine.close()
    known = bench.expected[:KNOWN]
    assert late.written == [known, known], "the old sequence wrote"
    assert journal.token_ids == bench.expected
    assert (journal.duplicated, journal.missing, len(journal.ends)) == (0, 0, 1)
    assert parts.engine.check_integrity() == []


async def test_tokens_of_several_steps_are_one_entry(
    bench: Bench, connection: Connection, keys: Keys
) -> None:
    [lease] = await bench.queue.claim(1)
    resumed = await bench.queue.resume_or_release(lease)
    assert resumed is not None
    publisher = Publisher(bench.queue)
    publisher.add(LeasedRequest(lease, resumed.job, sequence_id=2))
    steps = [(2, 0), (1, 7), (2, 1)]  # sequence 1 had the request under an earlier lease
    outputs = [
        TokenOutput(number, NAME, index, SampledToken(10 * number + index), is_last=False)
        for number, index in steps
    ]
    assert await publisher.publish(outputs) == set()
    entries = await connection.commands.xrange(keys.journal(NAME))
    assert [read_entry(entry).next_index for entry in entries[-2:]] == [0, 2]
    journal = await read_journal(connection, keys, NAME)
    assert journal is not None
    assert journal.token_ids == [20, 21]


async def test_a_rank_lost_during_an_admission_ends_the_worker_not_the_request(
    bench: Bench, connection: Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add(*_: object, **__: object) -> int:
        raise Unavailable("a rank died or hangs")

    parts = bench.worker()
    monkeypatch.setattr(parts.engine, "add", add)
    await parts.engine.start()
    lost = pytest.RaisesExc(Unavailable, match="a rank died")
    try:
        with anyio.fail_after(30), pytest.RaisesGroup(lost, flatten_subgroups=True):
            await parts.worker.run(asyncio.Event())
    finally:
        parts.engine.close()
    journal = await read_journal(connection, keys, NAME)
    assert journal is not None
    assert not journal.ends, "others can answer it"


async def test_a_draining_worker_requeues_the_newest_lease(
    bench: Bench, connection: Connection, keys: Keys
) -> None:
    [old] = await bench.queue.claim(1)
    await lapse(connection, keys)
    [new] = await bench.queue.claim_expired(1)
    resumed = await bench.queue.resume_or_release(new)
    assert resumed is not None
    parts = bench.worker()
    parts.publisher.add(LeasedRequest(old, resumed.job))
    parts.claimer._admitting[NAME] = new
    await parts.worker._requeue()
    [again] = await bench.queue.claim(1, wait_s=0)
    assert again.request_id == NAME
