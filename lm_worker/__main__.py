"""The language worker process: settings → objects → service."""

import torch

from glm4v.broker import Connection, Keys
from glm4v.broker.blobs import Blobs
from glm4v.broker.lm_queue import LmQueue
from glm4v.checkpoint import Checkpoint
from glm4v.device import open_device
from glm4v.device.collectives import SingleRank
from glm4v.service import Process, main
from glm4v.settings import LmSettings
from lm_worker.blocks import BlockPool
from lm_worker.cache_size import cache_blocks
from lm_worker.engine import Engine
from lm_worker.layers import Shard
from lm_worker.ranks import Ranks
from lm_worker.runner import Runner
from lm_worker.scheduler import Scheduler
from lm_worker.worker import Worker


def build(settings: LmSettings) -> Process:
    """Wire one worker."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    checkpoint = Checkpoint.open(settings.model)
    spec = checkpoint.spec
    device = open_device(settings.device, settings.dtype)
    shard = Shard(0, 1)
    blocks = cache_blocks(settings, spec, device, shard, checkpoint.values(vision=False))
    connection = Connection(settings.redis_url.get_secret_value())
    queue = LmQueue(connection, Keys(), lease_s=settings.lease_s, retention_s=settings.retention_s)
    worker = Worker(
        queue,
        Blobs(connection, Keys()),
        spec=spec,
        fingerprint=checkpoint.fingerprint,
        max_sequences=settings.max_sequences,
        lease_s=settings.lease_s,
    )
    ranks = Ranks(
        lambda: Runner.load(
            checkpoint,
            device,
            shard,
            SingleRank(),
            blocks=blocks,
            block_size=settings.block_size,
        )
    )
    scheduler = Scheduler(
        BlockPool(blocks, settings.block_size),
        max_sequences=settings.max_sequences,
        step_rows=settings.step_tokens,
    )
    engine = Engine(scheduler, ranks, worker.publish, picture_rows=spec.vision.embedding_rows)

    async def answer() -> None:
        await ranks.start()
        await worker.run(engine, process.stopping)

    async def ready() -> None:
        await queue.ready()
        await ranks.started.wait()

    async def close() -> None:
        ranks.close()
        await connection.close()

    process = Process(ready=ready, parts=[answer], close=close)
    return process


if __name__ == "__main__":
    main(LmSettings, build)
