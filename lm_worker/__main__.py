"""The language worker process: settings → objects → service."""

import os
import sys
from functools import partial

from glm4v.process.extras import extra

with extra("worker"):
    import anyio.to_thread

    from glm4v.broker import Connection, Keys
    from glm4v.broker.blobs import Blobs
    from glm4v.broker.lm_queue import LmQueue
    from glm4v.checkpoint.checkpoint import Checkpoint
    from glm4v.device import Device, DeviceOptions, open_device
    from glm4v.process.grpc_listener import GrpcListener
    from glm4v.process.service import Process, main
    from glm4v.process.settings import LmSettings
    from lm_worker.engine.blocks import BlockPool
    from lm_worker.engine.engine import Engine, OutputSink
    from lm_worker.engine.scheduler import Scheduler
    from lm_worker.metrics import register_metrics
    from lm_worker.model.cache_size import cache_blocks
    from lm_worker.model.layers import Shard
    from lm_worker.model.runner import Runner
    from lm_worker.parallel import follower
    from lm_worker.parallel.group import RankConfig, RankProcesses, init_group, rank_from_env
    from lm_worker.parallel.ranks import Ranks
    from lm_worker.structured_output.grammar import GrammarCache
    from lm_worker.worker import Worker


def build(settings: LmSettings) -> Process:
    """Wire one worker; ranks that something else starts are followers from here on."""
    checkpoint = Checkpoint.open(settings.model)
    size = settings.tensor_parallel
    checkpoint.spec.check_ranks(size)
    rank = rank_from_env(os.environ, size)
    children = RankProcesses(size) if size > 1 and rank is None else None
    config = children.config if children else rank
    device = open_device(
        DeviceOptions.from_settings(
            settings,
            is_bfloat16=checkpoint.is_bfloat16(vision=False),
            local_rank=config.local_rank if config else 0,
            local_size=config.local_size if config else 1,
        )
    )
    connection = Connection(settings.redis_url.get_secret_value())
    keys = Keys(settings.namespace)
    queue = LmQueue(
        connection,
        keys,
        checkpoint.fingerprint,
        lease_s=settings.lease_s,
        result_ttl_s=settings.result_ttl_s,
    )
    worker = Worker(
        queue,
        Blobs(connection, keys),
        spec=checkpoint.spec,
        fingerprint=checkpoint.fingerprint,
        max_num_seqs=settings.max_num_seqs,
        lease_s=settings.lease_s,
        arbiter=device.arbiter(settings.cpu_arbiter),
    )
    grammars = GrammarCache(settings.model, checkpoint.spec)
    engine, ranks = _engine(settings, checkpoint, device, worker.publish, grammars, rank=config)

    async def answer() -> None:
        await worker.run(engine, process.stopping)

    async def ready() -> None:
        await queue.ready()
        await ranks.started.wait()

    async def close() -> None:
        told = await anyio.to_thread.run_sync(ranks.close)  # a thread, so signals are still handled
        if children is not None:
            children.stop(told=told)
        await anyio.to_thread.run_sync(grammars.end)
        await connection.close()

    daemons = [] if size == 1 else [ranks.heartbeat]
    if children is not None:
        daemons.append(children.watch)
    process = Process(
        ready=ready,
        listeners=[GrpcListener(settings.listen)],
        load=ranks.start,
        tasks=[answer],
        daemons=daemons,
        close=close,
    )
    register_metrics(process.metrics, engine, queue.consumer)
    return process


def _engine(
    settings: LmSettings,
    checkpoint: Checkpoint,
    device: Device,
    publish: OutputSink,
    grammars: GrammarCache,
    *,
    rank: RankConfig | None,
) -> tuple[Engine, Ranks]:
    """The engine, and the ranks it drives."""
    spec = checkpoint.spec
    shard = Shard(0, settings.tensor_parallel)
    blocks = cache_blocks(
        settings,
        spec,
        device,
        shard,
        weights=checkpoint.values(vision=False),
    )
    ranks = Ranks(
        partial(Runner.load, checkpoint, device, shard, grammars=grammars),
        blocks=blocks,
        block_size=settings.block_size,
        init_group=None
        if rank is None or shard.size == 1
        else partial(init_group, rank, device, settings.rank_timeout_s),
        timeout_s=settings.rank_timeout_s,
        is_out_of_memory=device.is_out_of_memory,
    )
    scheduler = Scheduler(
        BlockPool(blocks, settings.block_size),
        max_num_seqs=settings.max_num_seqs,
        max_batched_tokens=settings.max_batched_tokens,
        prefill_slowdown=settings.prefill_slowdown,
        prefix_cache=settings.prefix_cache,
    )
    rows = spec.vision.num_image_tokens
    return Engine(scheduler, ranks, publish, num_image_tokens=rows, grammars=grammars), ranks


# Seconds after which the event loop lets the device thread have the interpreter: python's own 5 ms
# are a quarter of a step.
_SWITCH_S = 0.0005


def run() -> None:
    """Rank 0 serves; other ranks, when they are started from outside, follow."""
    sys.setswitchinterval(_SWITCH_S)
    if int(os.environ.get("RANK") or 0) > 0:
        follower.main()
    else:
        main(LmSettings, build)


if __name__ == "__main__":
    run()
