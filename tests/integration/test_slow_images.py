"""A vision worker with images that take long to decode, on a real Redis."""

import asyncio
import hashlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
import torch

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.blobs import Blobs
from glm4v.broker.vision_queue import VisionQueue
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device.cpu.device import CpuDevice
from glm4v.images import ImageLimits
from glm4v.internal.v1 import journal_pb2 as pb
from tests.unit.vision_worker import odd_decoder
from tests.unit.vision_worker.test_decoders import HONEST, image
from vision_worker.decoders import Decoders, DecodingBounds
from vision_worker.encoder import Encoder
from vision_worker.worker import Worker

LEASE_S = 1.0
COMMAND = (sys.executable, "-m", odd_decoder.__name__)


@dataclass
class Bench:
    """A gateway's side, and a worker whose decoders give a slow image as long as it likes."""

    broker: Broker
    blobs: Blobs
    encoder: Encoder

    async def submit(self, name: str, data: bytes) -> str:
        """Ask about an image; its digest."""
        digest, now_ms = hashlib.sha256(data).hexdigest(), int(time.time() * 1000)
        job = pb.Job(
            request_id=name,
            fingerprint="model",
            prompt_ids=[1],
            image_digest=digest,
            max_tokens=4,
            accepted_ms=now_ms,
            deadline_ms=now_ms + 600_000,
            orphan_timeout_ms=600_000,
            content_digest=name.encode(),
        )
        assert await self.broker.submit(job, data)
        return digest

    async def encoded(self, digest: str) -> bool:
        """Whether the embedding of an image is there."""
        return await self.blobs.embedding("model", digest) is not None


@pytest.fixture
async def bench(
    connection: Connection, keys: Keys, checkpoint_dir: Callable[[str], Path]
) -> AsyncIterator[Bench]:
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    size = checkpoint.spec.vision.image_size
    bounds = DecodingBounds(quick_s=0.2, slow_s=1000)
    decoders = Decoders(ImageLimits(), size, quick=2, bounds=bounds, command=COMMAND)
    encoder = Encoder(checkpoint, CpuDevice(torch.float32), decoders)
    queue = VisionQueue(connection, keys, "model", lease_s=LEASE_S, result_ttl_s=60)
    blobs = Blobs(connection, keys)
    worker = Worker(queue, blobs, encoder, fingerprint="model", max_in_flight=3, lease_s=LEASE_S)
    stopping = asyncio.Event()
    await queue.ready()
    await encoder.start()
    running = asyncio.create_task(worker.run(stopping))
    broker = Broker(connection, keys, max_open_requests=30, result_ttl_s=60)
    yield Bench(broker, blobs, encoder)
    stopping.set()
    await running
    encoder.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(60):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def test_slow_images_take_no_place_and_end_with_their_callers(bench: Bench) -> None:
    """More of them than the worker has room; an honest image comes last."""

    async def aside(count: int) -> bool:
        return bench.encoder.slow_images == count

    slow = [f"slow-{number}" for number in range(4)]
    for number, name in enumerate(slow):
        await bench.submit(name, image(odd_decoder.BURNS, 9 + number))
    honest = await bench.submit("honest", image(HONEST))
    await until(lambda: bench.encoded(honest))
    await until(lambda: aside(4))
    await asyncio.sleep(2 * LEASE_S)
    assert bench.encoder.slow_images == 4, "they keep their leases while they are decoded"
    for name in slow:
        await bench.broker.end_choices(
            await bench.broker.job(name), pb.JournalEnd(kind=pb.END_KIND_CANCELLED)
        )
    await until(lambda: aside(0))
    another = await bench.submit("another", image(HONEST + 1))
    await until(lambda: bench.encoded(another))
