"""What a language worker does with requests that come back to it, and when a rank is lost."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.blobs import Blobs
from glm4v.broker.keys import LM_GROUP
from glm4v.broker.lm_queue import LmQueue
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.errors import Unavailable
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api
from lm_worker.engine.engine import TokenOutput
from lm_worker.translate import LeasedRequest
from lm_worker.worker import Worker
from tests.e2e.journals import Journal, read_journal
from tests.parity.engine_runs import GOLDEN_TOKENS, Answers, Layout, Running
from tests.parity.golden_plans import cases, open_golden

LEASE_S = 600.0  # leases lapse only when the test says so
KNOWN = 3  # tokens in the journal when it does
NAME = "request"


async def lapse(connection: Connection, keys: Keys) -> None:
    """Make the one lease there is older than a lease may be."""
    commands = connection.commands
    [entry] = await commands.xpending_range(keys.jobs_lm("model"), LM_GROUP, "-", "+", 2)
    ids, idle = [entry["message_id"]], int(2000 * LEASE_S)
    await commands.xclaim(
        keys.jobs_lm("model"), LM_GROUP, entry["consumer"], 0, ids, idle=idle, justid=True
    )


class Late(Answers):
    """Publishes one token only when its request's lease has lapsed and was claimed anew."""

    def __init__(self, connection: Connection, keys: Keys, worker: Worker, queue: LmQueue) -> None:
        super().__init__()
        self._connection, self._keys = connection, keys
        self._worker, self._queue = worker, queue
        self.run: Running
        self.taking_over: asyncio.Task[None] | None = None
        self.written: list[list[int]] = []  # in the journal before and after the late token

    async def publish(self, tokens: Sequence[TokenOutput]) -> set[int]:
        if tokens[0].index != KNOWN or self.taking_over is not None:
            return await self._worker.publish(tokens)
        self.taking_over = asyncio.create_task(self._lapse_and_take_over())
        before = await self.journal("isolated_runs")
        refused = await self._worker.publish(tokens)
        self.written = [before.token_ids, (await self.journal("token_ids")).token_ids]
        return refused

    async def _lapse_and_take_over(self) -> None:
        await lapse(self._connection, self._keys)
        for lease in await self._queue.claim_expired(1):
            await self._worker._admit(self.run.engine, lease)

    async def journal(self, part: str) -> Journal:
        """Of the one request, once it has this."""
        while True:
            journal = await read_journal(self._connection, self._keys, NAME)
            if journal is not None and getattr(journal, part):
                return journal
            await asyncio.sleep(0.01)


@dataclass
class Bench:
    """A worker, its queue, and a request in it."""

    queue: LmQueue
    worker: Worker
    folder: Path
    expected: list[int]

    def running(self, answers: Answers) -> Running:
        """An engine for it."""
        return Running(self.folder, Layout(), None, 60.0, answers)


@pytest.fixture
async def bench(connection: Connection, keys: Keys, checkpoint_dir: Callable[[str], Path]) -> Bench:
    golden, folder = open_golden("bundled"), checkpoint_dir("micro-glm4v")
    text = next(case for case in cases(golden) if f"{case}/vision_embeddings" not in golden)
    queue = LmQueue(connection, keys, "model", lease_s=LEASE_S, result_ttl_s=60)
    await queue.ready()
    worker = Worker(
        queue,
        Blobs(connection, keys),
        spec=Checkpoint.open(folder).spec,
        fingerprint="model",
        max_num_seqs=4,
        lease_s=LEASE_S,
    )
    job = pb.Job(
        request_id=NAME,
        fingerprint="model",
        prompt_ids=[int(i) for i in golden[f"{text}/input_ids"]],
        max_tokens=GOLDEN_TOKENS,
        timeout_ms=60_000,
        orphan_timeout_ms=60_000,
        content_digest=b"asked",
        sampling=api.SamplingParams(),
    )
    broker = Broker(connection, keys, max_open_requests=3, result_ttl_s=60)
    assert await broker.submit(job, None)
    return Bench(queue, worker, folder, golden[f"{text}/greedy_tokens"].tolist())


async def test_a_late_token_of_the_old_sequence_is_nobodys(
    bench: Bench, connection: Connection, keys: Keys
) -> None:
    late = Late(connection, keys, bench.worker, bench.queue)
    run = late.run = bench.running(late)
    stopping = asyncio.Event()
    await run.ranks.start()
    try:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(bench.worker.run, run.engine, stopping)
                journal = await late.journal("ends")
                stopping.set()
    finally:
        run.ranks.close()
    known = bench.expected[:KNOWN]
    assert late.written == [known, known], "the old sequence wrote"
    assert journal.token_ids == bench.expected
    assert (journal.duplicated, journal.missing, len(journal.ends)) == (0, 0, 1)
    assert run.engine.check_integrity() == []


async def test_a_rank_that_is_lost_while_a_request_comes_in_ends_the_worker_and_not_the_request(
    bench: Bench, connection: Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add(*_: object, **__: object) -> int:
        raise Unavailable("a rank died or hangs")

    run = bench.running(Answers())
    monkeypatch.setattr(run.engine, "add", add)
    await run.ranks.start()
    lost = pytest.RaisesExc(Unavailable, match="a rank has died")
    try:
        with anyio.fail_after(30), pytest.RaisesGroup(lost, flatten_subgroups=True):
            await bench.worker.run(run.engine, asyncio.Event())
    finally:
        run.ranks.close()
    journal = await read_journal(connection, keys, NAME)
    assert journal is not None
    assert not journal.ends, "others can answer it"


async def test_a_worker_that_stops_hands_back_the_newest_lease(
    bench: Bench, connection: Connection, keys: Keys
) -> None:
    [old] = await bench.queue.claim(1)
    await lapse(connection, keys)
    [new] = await bench.queue.claim_expired(1)
    resumed = await bench.queue.resume_or_release(new)
    assert resumed is not None
    bench.worker._held[NAME] = LeasedRequest(old, resumed.job)
    bench.worker._admitting[NAME] = new
    await bench.worker._hand_back(bench.running(Answers()).engine)
    [again] = await bench.queue.claim(1, wait_s=0)
    assert again.request_id == NAME
