"""One model behind two engines: one alone, one behind a worker that journals every step."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.blobs import Blobs
from glm4v.broker.lm_queue import LmQueue
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import DeviceOptions, open_device
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api
from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.engine import Engine, OutputSink, TokenOutput
from lm_worker.engine.scheduler import Scheduler
from lm_worker.model.layers import Shard
from lm_worker.model.runner import Runner
from lm_worker.parallel.ranks import Ranks
from lm_worker.translate import sequence_request
from lm_worker.worker import Worker

_BLOCK_SIZE = 16
_MAX_BATCHED_TOKENS = 512
_PROMPT_TOKENS = 64
_LEASE_S = 10.0
_DEADLINE_MS = 3_600_000


class Bench:
    """Both engines use the same ranks and cache, one after the other; prompts never repeat."""

    def __init__(self, model: Path, dtype: str, redis_url: str, requests: int, tokens: int) -> None:
        checkpoint = Checkpoint.open(model)
        self._spec = checkpoint.spec
        self._fingerprint = checkpoint.fingerprint
        self._requests = requests
        self._tokens = tokens
        self._words = random.Random(0)
        self._left = 0
        self._done = asyncio.Event()
        is_bfloat16 = checkpoint.is_bfloat16(vision=False)
        device = open_device(DeviceOptions(dtype=dtype, is_bfloat16=is_bfloat16))
        self._blocks = requests * -(-(_PROMPT_TOKENS + tokens) // _BLOCK_SIZE)
        self._ranks = Ranks(
            partial(Runner.load, checkpoint, device, Shard(0, 1)),
            blocks=self._blocks,
            block_size=_BLOCK_SIZE,
        )
        self._connection, keys = Connection(redis_url), Keys("bench")
        self._queue = LmQueue(
            self._connection, keys, self._fingerprint, lease_s=_LEASE_S, result_ttl_s=60
        )
        self._broker = Broker(self._connection, keys, max_open_requests=requests, result_ttl_s=60)
        self._worker = Worker(
            self._queue,
            Blobs(self._connection, keys),
            spec=self._spec,
            fingerprint=self._fingerprint,
            max_num_seqs=requests,
            lease_s=_LEASE_S,
        )
        self._plan_isolated = self._engine(self._count)
        self._journaled = self._engine(self._publish)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Bench"]:
        """Weights loaded and both engines running inside."""
        stopping = asyncio.Event()
        try:
            await self._queue.ready()
            await self._ranks.start()
            tasks = [
                asyncio.create_task(self._plan_isolated.run()),
                asyncio.create_task(self._worker.run(self._journaled, stopping)),
            ]
            for task in tasks:
                task.add_done_callback(lambda _: self._done.set())
            yield self
            self._plan_isolated.stop()
            stopping.set()
            await asyncio.gather(*tasks)
        finally:
            self._ranks.close()
            await self._connection.close()

    async def alone(self) -> float:
        """Tokens/s of the engine, its tokens counted and dropped."""
        jobs = self._jobs()
        start = time.perf_counter()
        for job in jobs:
            await self._plan_isolated.add(sequence_request(job, self._spec), (), None)
        return await self._rate(start)

    async def journaled(self) -> float:
        """Tokens/s of requests that are submitted, claimed, and appended step by step."""
        jobs = self._jobs()
        start = time.perf_counter()
        for job in jobs:
            await self._broker.submit(job, None)
        return await self._rate(start)

    async def _rate(self, start: float) -> float:
        await self._done.wait()
        assert self._left == 0, "an engine ended"
        return self._requests * self._tokens / (time.perf_counter() - start)

    async def _publish(self, tokens: Sequence[TokenOutput]) -> set[int]:
        refused = await self._worker.publish(tokens)
        assert not refused, "nobody else has these requests"
        return await self._count(tokens)

    async def _count(self, tokens: Sequence[TokenOutput]) -> set[int]:
        self._left -= sum(token.is_last for token in tokens)
        if self._left == 0:
            self._done.set()
        return set()

    def _engine(self, publish: OutputSink) -> Engine:
        scheduler = Scheduler(
            BlockPool(self._blocks, _BLOCK_SIZE),
            max_num_seqs=self._requests,
            max_batched_tokens=_MAX_BATCHED_TOKENS,
            prefix_cache=False,
        )
        rows = self._spec.vision.num_image_tokens
        return Engine(scheduler, self._ranks, publish, num_image_tokens=rows)

    def _jobs(self) -> list[pb.Job]:
        self._left = self._requests
        self._done.clear()
        words = self._spec.first_special_id
        return [
            pb.Job(
                request_id=uuid.uuid4().hex,
                fingerprint=self._fingerprint,
                prompt_ids=[self._words.randrange(words) for _ in range(_PROMPT_TOKENS)],
                sampling=api.SamplingParams(),
                max_tokens=self._tokens,
                timeout_ms=_DEADLINE_MS,
                orphan_timeout_ms=_DEADLINE_MS,
            )
            for _ in range(self._requests)
        ]
