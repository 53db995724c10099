"""Leases of a vision worker whose device needs longer than a lease for one layer, or hangs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from glm4v.broker import Connection, Keys
from glm4v.broker.blobs import Blobs
from glm4v.broker.broker import Broker
from glm4v.broker.vision_queue import VisionQueue
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.images import ImageLimits
from tests.integration.test_slow_images import Bench
from tests.unit.vision_worker.test_encoder import SteppedDevice, image
from vision_worker.decoders import Decoders
from vision_worker.encoder import Encoder
from vision_worker.worker import Worker

LEASE_S = 1.0


@pytest.fixture
async def device() -> SteppedDevice:
    return SteppedDevice()


@pytest.fixture
async def bench(
    connection: Connection,
    keys: Keys,
    checkpoint_dir: Callable[[str], Path],
    device: SteppedDevice,
) -> AsyncIterator[Bench]:
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    decoders = Decoders(ImageLimits(), checkpoint.spec.vision.image_size, quick=1)
    queue, blobs = queue_of(connection, keys), Blobs(connection, keys)
    broker = Broker(connection, keys, max_open_requests=3, result_ttl_s=60)
    stopping = asyncio.Event()
    with closing(Encoder(checkpoint, device, decoders)) as encoder:
        worker = Worker(
            queue, blobs, encoder, fingerprint="model", max_in_flight=1, lease_s=LEASE_S
        )
        await queue.ready()
        await encoder.start()
        running = asyncio.create_task(worker.run(stopping))
        yield Bench(broker, blobs, encoder)
        device.free_run()
        stopping.set()
        await running


def queue_of(connection: Connection, keys: Keys) -> VisionQueue:
    return VisionQueue(connection, keys, "model", lease_s=LEASE_S, result_ttl_s=60)


async def test_a_layer_may_take_longer_than_a_lease_but_not_forever(
    bench: Bench, connection: Connection, keys: Keys, device: SteppedDevice
) -> None:
    another = queue_of(connection, keys)
    await bench.submit("request", image(1))
    await device.at_layer.acquire()
    await asyncio.sleep(1.5 * LEASE_S)
    assert await another.claim_expired(1) == [], "the layer is slow"
    with anyio.fail_after(20):
        while True:  # the layer hangs
            if await another.claim_expired(1):
                return
            await asyncio.sleep(LEASE_S / 10)
