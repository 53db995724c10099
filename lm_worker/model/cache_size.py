"""Sizes the KV cache."""

import logging

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import Device
from glm4v.errors import Overloaded
from glm4v.process.settings import LmSettings
from lm_worker.model.layers import Shard
from lm_worker.model.model import kv_bytes_per_token

log = logging.getLogger(__name__)

_SHARE_OF_FREE = 0.5  # of the memory that the weights leave free


def cache_blocks(settings: LmSettings, checkpoint: Checkpoint, device: Device, shard: Shard) -> int:
    """KV-cache blocks of each rank: GLM4V_KV_CACHE_BYTES, or half of what the weights leave.

    At most what `max_num_seqs` requests of full length can use.
    Raises Overloaded if not even one block fits.
    """
    spec = checkpoint.spec
    block_size = settings.block_size or device.block_size
    block = block_size * kv_bytes_per_token(spec, shard, device)
    longest = spec.context_tokens + spec.vision.num_image_tokens
    useful = settings.max_num_seqs * -(-longest // block_size)
    free = _free_bytes(settings, checkpoint, device, shard.size)
    budget = settings.kv_cache_bytes or int(max(0.0, free) * _SHARE_OF_FREE)
    blocks = min(useful, budget // block)
    if blocks == 0:
        raise Overloaded(
            f"no memory for the KV cache: one block takes {block} bytes, {budget} are available; "
            "free memory, raise the container's limit, or set GLM4V_KV_CACHE_BYTES"
        )
    log.info(
        "kv cache: %d blocks of %d tokens, %.1f MiB",
        blocks,
        block_size,
        blocks * block / 2**20,
    )
    return blocks


def _free_bytes(settings: LmSettings, checkpoint: Checkpoint, device: Device, ranks: int) -> float:
    """What weights leave to each of `ranks`: those of all workers that share the host's memory,
    whether they have read them yet or not, or else those of this one.
    """
    weights = device.language_bytes(checkpoint)
    if not (settings.host_memory_bytes and device.uses_host_memory):
        return device.free_memory_bytes() - weights / ranks
    vision = checkpoint.values(vision=True) * device.weight_bytes
    workers = settings.host_lm_workers
    all_weights = settings.host_vision_workers * vision + workers * weights
    return (settings.host_memory_bytes - all_weights) / (workers * ranks)
