"""One engine behind a worker that journals every step; it also takes requests directly."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.blobs import Blobs
from glm4v.broker.lm_queue import LmQueue
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import DeviceOptions, open_device
from glm4v.device.arbiter import NoArbiter
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api
from lm_worker.assembly import EngineConfig, build_engine
from lm_worker.claimer import Claimer
from lm_worker.engine.sequence import TokenOutput
from lm_worker.publisher import PUBLISH_INTERVAL_S, Publisher
from lm_worker.translate import sequence_request
from lm_worker.worker import Worker

_MAX_BATCHED_TOKENS = 512
_PROMPT_TOKENS = 64
_LEASE_S = 10.0
_DEADLINE_MS = 3_600_000


class Bench:
    """Measures one load with and without journals; prompts never repeat."""

    def __init__(self, model: Path, dtype: str, redis_url: str, requests: int, tokens: int) -> None:
        checkpoint = Checkpoint.open(model)
        self._spec = checkpoint.spec
        self._fingerprint = checkpoint.fingerprint
        self._requests = requests
        self._tokens = tokens
        self._rng = random.Random(0)
        self._left = 0
        self._done = asyncio.Event()
        self._is_journaled = False
        self._connection, keys = Connection(redis_url), Keys("bench")
        self._queue = LmQueue(
            self._connection, keys, self._fingerprint, lease_s=_LEASE_S, result_ttl_s=60
        )
        self._broker = Broker(self._connection, keys, max_open_requests=requests, result_ttl_s=60)
        self._publisher = Publisher(self._queue)
        is_bfloat16 = checkpoint.is_bfloat16(vision=False)
        device = open_device(DeviceOptions(dtype=dtype, is_bfloat16=is_bfloat16))
        config = EngineConfig(
            blocks=requests * -(-(_PROMPT_TOKENS + tokens) // device.block_size),
            max_num_seqs=requests,
            max_batched_tokens=_MAX_BATCHED_TOKENS,
            prefix_cache=False,
            publish_interval_s=PUBLISH_INTERVAL_S,
        )
        self._engine = build_engine(checkpoint, device, config, self)
        claimer = Claimer(
            self._queue,
            Blobs(self._connection, keys),
            self._engine,
            self._publisher,
            spec=self._spec,
            fingerprint=self._fingerprint,
            max_num_seqs=requests,
            lease_s=_LEASE_S,
            arbiter=NoArbiter(),
        )
        self._worker = Worker(self._queue, self._engine, self._publisher, claimer, lease_s=_LEASE_S)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Bench"]:
        """The worker runs inside, its weights loaded."""
        stopping = asyncio.Event()
        try:
            await self._queue.ready()
            await self._engine.start()
            task = asyncio.create_task(self._worker.run(stopping))
            task.add_done_callback(lambda _: self._done.set())
            yield self
            stopping.set()
            await task
        finally:
            self._engine.close()
            await self._connection.close()

    async def without_journals(self) -> float:
        """Tokens/s of requests added to the engine directly, their tokens counted and dropped."""
        self._is_journaled = False
        jobs = self._jobs()
        start = time.perf_counter()
        for job in jobs:
            await self._engine.add(sequence_request(job, self._spec), (), None)
        return await self._rate(start)

    async def with_journals(self) -> float:
        """Tokens/s of requests that are submitted, claimed, and appended step by step."""
        self._is_journaled = True
        jobs = self._jobs()
        start = time.perf_counter()
        for job in jobs:
            await self._broker.submit(job, None)
        return await self._rate(start)

    async def publish(self, outputs: Sequence[TokenOutput]) -> set[int]:
        """The engine's sink: counts, after the publisher if requests are journaled."""
        if self._is_journaled:
            refused = await self._publisher.publish(outputs)
            assert not refused, "no other worker has these requests"
        self._left -= sum(output.is_last for output in outputs)
        if self._left == 0:
            self._done.set()
        return set()

    async def _rate(self, start: float) -> float:
        await self._done.wait()
        assert self._left == 0, "the worker ended"
        return self._requests * self._tokens / (time.perf_counter() - start)

    def _jobs(self) -> list[pb.Job]:
        self._left = self._requests
        self._done.clear()
        num_words = self._spec.first_special_id
        return [
            pb.Job(
                request_id=uuid.uuid4().hex,
                fingerprint=self._fingerprint,
                prompt_ids=[self._rng.randrange(num_words) for _ in range(_PROMPT_TOKENS)],
                sampling=api.SamplingParams(),
                max_tokens=self._tokens,
                timeout_ms=_DEADLINE_MS,
                orphan_timeout_ms=_DEADLINE_MS,
            )
            for _ in range(self._requests)
        ]
