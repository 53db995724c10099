"""The process of a language worker."""

import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial

from glm4v.process.extras import extra

with extra("worker"):
    import anyio.to_thread

    from glm4v.broker import Keys
    from glm4v.broker.blobs import Blobs
    from glm4v.broker.keys import lm_queue
    from glm4v.broker.lm_queue import LmQueue
    from glm4v.broker.worker_reports import WorkerReporter
    from glm4v.checkpoint.checkpoint import Checkpoint
    from glm4v.device import Device, DeviceOptions, open_device
    from glm4v.device.arbiter import Arbiter
    from glm4v.process.grpc_listener import GrpcListener
    from glm4v.process.redis_connection import connect
    from glm4v.process.service import Process, main
    from glm4v.process.settings import LmSettings
    from lm_worker.assembly import EngineConfig, build_engine
    from lm_worker.claimer import Claimer
    from lm_worker.engine.engine import Engine
    from lm_worker.metrics import register_metrics, report
    from lm_worker.model.cache_size import cache_blocks
    from lm_worker.model.layers import Shard
    from lm_worker.parallel import follower
    from lm_worker.parallel.group import (
        RankConfig,
        RankProcesses,
        host_from_env,
        rank_from_env,
    )
    from lm_worker.publisher import PUBLISH_INTERVAL_S, Publisher
    from lm_worker.worker import Worker


def build(settings: LmSettings) -> Process:
    """Wire one worker, rank 0 of its group."""
    checkpoint = Checkpoint.open(settings.model)
    children, rank = _group(checkpoint, settings.tensor_parallel)
    device = _device(settings, checkpoint, rank)
    connection, keys = connect(settings), Keys(settings.namespace)
    fingerprint, lease_s = checkpoint.fingerprint, settings.lease_s
    queue = LmQueue(
        connection, keys, fingerprint, lease_s=lease_s, result_ttl_s=settings.result_ttl_s
    )
    publisher = Publisher(queue)
    arbiter = device.arbiter(settings.cpu_arbiter)
    engine = _engine(settings, checkpoint, device, publisher, rank, arbiter)
    claimer = Claimer(
        queue,
        Blobs(connection, keys),
        engine,
        publisher,
        spec=checkpoint.spec,
        fingerprint=fingerprint,
        max_num_seqs=settings.max_num_seqs,
        lease_s=lease_s,
        arbiter=arbiter,
    )
    worker = Worker(queue, engine, publisher, claimer, lease_s=lease_s)

    async def serve() -> None:
        await worker.run(process.stopping)

    async def ready() -> None:
        await queue.ready()
        await engine.ranks.started.wait()

    async def close() -> None:
        told = await anyio.to_thread.run_sync(engine.close)  # a thread: signals are still handled
        if children is not None:
            children.stop(told=told)
        await connection.close()

    process = Process(
        ready=ready,
        listeners=[GrpcListener(settings.listen)],
        load=engine.start,
        tasks=[serve],
        close=close,
    )
    reporter = WorkerReporter(
        connection,
        keys,
        queue=lm_queue(fingerprint),
        consumer=queue.consumer,
        device=device.name,
        description=device.description,
        report=partial(report, engine),
        started=engine.ranks.started,
        stopping=process.stopping,
    )
    process.daemons = [*_rank_tasks(engine, settings.tensor_parallel, children), reporter.run]
    register_metrics(process.metrics, engine, queue.consumer)
    return process


def _group(checkpoint: Checkpoint, size: int) -> tuple[RankProcesses | None, RankConfig | None]:
    """The other ranks, if this process is to start them, and the place of this one among them.

    Raises ConfigurationError if the model cannot be split over this number of ranks.
    """
    checkpoint.spec.check_ranks(size)
    rank = rank_from_env(os.environ, size)
    if size == 1 or rank is not None:
        return None, rank
    children = RankProcesses(size, host_from_env(os.environ, size))
    return children, children.config


def _rank_tasks(
    engine: Engine, size: int, children: RankProcesses | None
) -> list[Callable[[], Awaitable[None]]]:
    """What keeps a tensor-parallel group together."""
    tasks: list[Callable[[], Awaitable[None]]] = []
    if size > 1:
        tasks.append(engine.ranks.heartbeat)
    if children is not None:
        tasks.append(children.watch)
    return tasks


def _device(settings: LmSettings, checkpoint: Checkpoint, rank: RankConfig | None) -> Device:
    options = DeviceOptions.from_settings(
        settings,
        is_bfloat16=checkpoint.is_bfloat16(vision=False),
        quantized_by=checkpoint.quantized_by,
        local_rank=rank.local_rank if rank else 0,
        local_size=rank.local_size if rank else 1,
        group_size=settings.tensor_parallel,
    )
    return open_device(options)


def _engine(
    settings: LmSettings,
    checkpoint: Checkpoint,
    device: Device,
    publisher: Publisher,
    rank: RankConfig | None,
    arbiter: Arbiter,
) -> Engine:
    blocks = cache_blocks(settings, checkpoint, device, Shard(0, settings.tensor_parallel))
    config = EngineConfig(
        blocks=blocks,
        max_num_seqs=settings.max_num_seqs,
        max_batched_tokens=settings.max_batched_tokens,
        block_size=settings.block_size,
        prefill_slowdown=settings.prefill_slowdown,
        prefix_cache=settings.prefix_cache,
        drafts=settings.drafts,
        publish_interval_s=PUBLISH_INTERVAL_S,
        rank=rank,
        rank_timeout_s=settings.rank_timeout_s,
    )
    return build_engine(checkpoint, device, config, publisher, arbiter)


# The event loop yields the interpreter to the device thread after this time; Python's default of
# 5 ms is a quarter of a step.
_SWITCH_INTERVAL_S = 0.0005


def run() -> None:
    """Run rank 0, or the rank that the environment names."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    if int(os.environ.get("RANK") or os.environ.get("NODE_RANK") or 0) > 0:
        follower.main()
    else:
        main(LmSettings, build)


if __name__ == "__main__":
    run()
