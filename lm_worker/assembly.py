"""Builds an engine for a checkpoint: the worker's, the offline pipeline's, those of benchmarks."""

import math
from dataclasses import dataclass
from functools import partial

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import Device
from glm4v.device.arbiter import Arbiter, NoArbiter
from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.draft_planner import DraftPlanner
from lm_worker.engine.engine import Engine
from lm_worker.engine.publications import OutputSink
from lm_worker.engine.scheduler import Scheduler
from lm_worker.model.layers import Shard
from lm_worker.model.runner import Runner
from lm_worker.parallel.group import RankConfig, init_group
from lm_worker.parallel.ranks import Ranks
from lm_worker.structured_output.grammar_cache import GrammarCache


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes of an engine; none of them changes a token."""

    blocks: int  # of the KV cache, in each rank
    max_num_seqs: int
    max_batched_tokens: int
    block_size: int = 0  # tokens; 0 is the device's own size
    prefill_slowdown: float = math.inf
    prefix_cache: bool = True
    drafts: bool = False  # several tokens a step, where the device gains by it
    publish_interval_s: float = 0.0  # as in `Publications`
    rank: RankConfig | None = None  # None: this process computes alone
    rank_timeout_s: float = 30.0


def build_engine(
    checkpoint: Checkpoint,
    device: Device,
    config: EngineConfig,
    sink: OutputSink,
    arbiter: Arbiter | None = None,
) -> Engine:
    """Rank 0's engine; `start` loads the weights and waits for the other ranks.

    `arbiter` is that of the cores it shares with vision workers; None: it has its device alone.
    """
    spec, rank = checkpoint.spec, config.rank
    shard = Shard(0, rank.size if rank is not None else 1)
    grammars = GrammarCache(checkpoint.directory, spec)
    block_size = config.block_size or device.block_size
    ranks = Ranks(
        partial(Runner.load, checkpoint, device, shard, grammars=grammars),
        blocks=config.blocks,
        block_size=block_size,
        init_group=None
        if rank is None or shard.size == 1
        else partial(init_group, rank, device, config.rank_timeout_s),
        timeout_s=config.rank_timeout_s,
        device_errors=device.errors,
    )
    scheduler = Scheduler(
        BlockPool(config.blocks, block_size),
        max_num_seqs=config.max_num_seqs,
        max_batched_tokens=config.max_batched_tokens,
        prefill_slowdown=config.prefill_slowdown,
        prefix_cache=config.prefix_cache,
        drafts=DraftPlanner() if config.drafts and device.has_drafts else None,
    )
    return Engine(
        scheduler,
        ranks,
        sink,
        num_image_tokens=spec.vision.num_image_tokens,
        grammars=grammars,
        arbiter=arbiter or NoArbiter(),
        publish_interval_s=config.publish_interval_s,
    )
