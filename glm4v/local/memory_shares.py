"""How the processes of one machine share its memory, decided once, when they are started.

Weights come first. Redis may take a quarter of what they leave, and the KV caches half of the rest
(`lm_worker/model/cache_size.py`). The other half is for activations, buffers and programs.
"""

from dataclasses import dataclass

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.errors import Unavailable
from glm4v.host.memory import free_host_memory_bytes
from glm4v.process.settings import LmSettings

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "int8-channel": 1}
_LEAST_FOR_REDIS = 2**28  # hundreds of requests; the images among them are encoded again


@dataclass(frozen=True, slots=True)
class MemoryShares:
    """Bytes; 0 where the free memory is unknown."""

    redis_bytes: int  # maxmemory of the server that is started
    workers_bytes: int  # for weights and KV caches, all workers together


def memory_shares(
    settings: LmSettings,
    checkpoint: Checkpoint,
    *,
    vision_workers: int,
    lm_workers: int,
    has_redis: bool,
) -> MemoryShares:
    """The shares of what is free now; `has_redis` if a server of our own is among the processes."""
    try:
        free = free_host_memory_bytes()
    except Unavailable:
        return MemoryShares(0, 0)
    weights = 0
    if settings.device in ("auto", "cpu"):
        vision, language = _weight_bytes(settings, checkpoint)
        weights = vision_workers * vision + lm_workers * language
    redis = max(_LEAST_FOR_REDIS, (free - weights) // 4)
    return MemoryShares(redis, free - redis if has_redis else free)


def _weight_bytes(settings: LmSettings, checkpoint: Checkpoint) -> tuple[int, int]:
    """The weights of a vision worker and of a language worker, nearly: as with native kernels."""
    kinds = []
    for is_vision in (True, False):
        each = _BYTES.get(settings.weight_dtype) or _BYTES.get(settings.dtype)
        if each is None:
            each = 2 if checkpoint.is_bfloat16(vision=is_vision) else 4
        if is_vision:
            each = max(2, each)
        elif checkpoint.quantized and settings.weight_dtype == "auto":
            each = 1
        kinds.append(each * checkpoint.values(vision=is_vision))
    return kinds[0], kinds[1]
