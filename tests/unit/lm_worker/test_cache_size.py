"""The KV cache takes its part of the memory, also of what other workers have not read yet."""

from pathlib import Path

import pytest
import torch

from bench.geometry import GLM_4V_9B
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.quantized import GROUPS
from glm4v.checkpoint.tensor_place import TensorPlace
from glm4v.checkpoint.tensor_shapes import expected_tensors
from glm4v.device.cpu.device import CpuDevice
from glm4v.errors import Overloaded
from glm4v.local import memory_shares as shares
from glm4v.local.memory_shares import memory_shares
from glm4v.process.settings import LmSettings
from lm_worker.model.cache_size import cache_blocks
from lm_worker.model.layers import Shard

GIB = 2**30
PER_TOKEN = 2 * 40 * 2 * 128 * 4  # keys and values of 40 layers, 2 heads of 128, float32
LONGEST = 8192 + 1602  # tokens of a request
PUBLISHED = Checkpoint(
    Path("glm-4v-9b"),
    GLM_4V_9B,
    {name: TensorPlace(Path(), "BF16", shape, 0, 0) for name, shape in expected_tensors(GLM_4V_9B)},
    "",
)


class Cpu(CpuDevice):
    """One with 8-bit weights, on a machine on which nobody has read any yet."""

    def __init__(self, free: int) -> None:
        super().__init__(torch.float32)
        self.weight_bytes, self.quantization = 2, GROUPS
        self._free = free

    def free_memory_bytes(self) -> int:
        return self._free


def settings(**fields: object) -> LmSettings:
    return LmSettings(model=Path("glm-4v-9b"), redis_url="redis://", weight_dtype="int8", **fields)  # type: ignore[arg-type]


def cache_bytes(asked: LmSettings, free: int, ranks: int = 1) -> int:
    """All ranks of a worker together."""
    blocks = cache_blocks(asked, PUBLISHED, Cpu(free), Shard(0, ranks))
    return blocks * 16 * PER_TOKEN


def test_all_processes_fit_a_machine_that_the_model_nearly_fills(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GLM-4V-9B with 8-bit weights on 24 GiB, as docs/benchmarks/glm-4v-9b.md measured it."""
    free = int(22.5 * GIB)
    monkeypatch.setattr(shares, "free_host_memory_bytes", lambda: free)
    shared = memory_shares(settings(), PUBLISHED, vision_workers=1, lm_workers=1, has_redis=True)
    asked = settings(host_memory_bytes=shared.workers_bytes, host_vision_workers=1)
    cache = cache_bytes(asked, free)
    assert cache >= LONGEST * PER_TOKEN
    vision, language = 9633 * 2**20, (10731 - 400) * 2**20  # with all but the cache
    assert shared.redis_bytes + vision + language + cache <= free
    # What it takes that knows of itself alone:
    assert vision + language + cache_bytes(settings(), free) > free


@pytest.mark.parametrize(("workers", "ranks"), [(1, 1), (1, 2), (2, 1), (3, 2)])
def test_each_worker_and_rank_takes_its_part_whatever_is_free_when_it_starts(
    workers: int, ranks: int
) -> None:
    device, memory = Cpu(0), 200 * GIB
    weights = workers * device.language_bytes(PUBLISHED) + 2 * PUBLISHED.values(vision=True) * 2
    asked = settings(
        host_memory_bytes=memory,
        host_vision_workers=2,
        host_lm_workers=workers,
        max_num_seqs=1000,
        tensor_parallel=ranks,
    )
    caches = workers * cache_bytes(asked, 0, ranks)
    assert caches == pytest.approx((memory - weights) / 2, rel=1e-3)


def test_a_worker_alone_takes_half_of_what_its_weights_leave_free() -> None:
    weights = Cpu(0).language_bytes(PUBLISHED)
    assert cache_bytes(settings(), weights + 2 * GIB) == pytest.approx(GIB, rel=2e-3)
    with pytest.raises(
        Overloaded, match="free memory, raise the container's limit, or set GLM4V_KV"
    ):
        cache_bytes(settings(), weights)


def test_the_setting_comes_first() -> None:
    asked = settings(kv_cache_bytes=GIB, host_memory_bytes=GIB, host_vision_workers=1)
    assert cache_bytes(asked, 0) == pytest.approx(GIB, rel=2e-3)


@pytest.mark.parametrize(
    ("fields", "bytes_each"),
    [
        ({}, (2, 2)),
        ({"dtype": "float32"}, (4, 4)),
        ({"dtype": "bfloat16"}, (2, 2)),
        ({"weight_dtype": "int8"}, (2, 1)),
        ({"weight_dtype": "float16"}, (2, 2)),
        ({"device": "cuda"}, (0, 0)),
    ],
)
def test_redis_takes_a_quarter_of_what_weights_leave(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], bytes_each: tuple[int, int]
) -> None:
    monkeypatch.setattr(shares, "free_host_memory_bytes", lambda: 400 * GIB)
    asked = LmSettings(model=Path("glm-4v-9b"), redis_url="redis://", **fields)  # type: ignore[arg-type]
    vision, language = (PUBLISHED.values(vision=kind) for kind in (True, False))
    weights = 3 * vision * bytes_each[0] + 2 * language * bytes_each[1]
    shared = memory_shares(asked, PUBLISHED, vision_workers=3, lm_workers=2, has_redis=True)
    assert shared.redis_bytes == (400 * GIB - weights) // 4
    assert shared.workers_bytes == 400 * GIB - shared.redis_bytes
    elsewhere = memory_shares(asked, PUBLISHED, vision_workers=3, lm_workers=2, has_redis=False)
    assert elsewhere.workers_bytes == 400 * GIB


def test_without_memory_for_the_weights_redis_has_its_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shares, "free_host_memory_bytes", lambda: 8 * GIB)
    shared = memory_shares(settings(), PUBLISHED, vision_workers=1, lm_workers=1, has_redis=True)
    assert shared.redis_bytes == 2**28
