"""Memory, and what a worker says when the device fails."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch_npu

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.checkpoint.weights import Weights
from glm4v.device import Device, DeviceOptions, open_device
from glm4v.device.collectives import SingleRank
from glm4v.errors import DeviceFailed, Overloaded
from lm_worker.model.layers import Shard
from lm_worker.model.runner import NO_MEMORY, Runner
from tests.npu.pretend.emulation import Emulation
from vision_worker.model import VisionModel

_LOST = 507899  # ACL_ERROR_RT_DRV_INTERNAL_ERROR
_MEMORY = 2 * 2**30


@pytest.fixture
def runtime() -> Iterator[ctypes.CDLL]:
    """The pretend device's switches, put back behind the test."""
    library = ctypes.CDLL("libascendcl.so")
    library.pretend_set_memory.argtypes = [ctypes.c_size_t]
    yield library
    library.pretend_set_memory(_MEMORY)
    library.pretend_fail(0)


def test_a_lost_device_is_one_line(npu: Device, emulation: Emulation, runtime: ctypes.CDLL) -> None:
    runtime.pretend_fail(_LOST)
    with (
        pytest.raises(DeviceFailed, match=r"^npu:0 failed: .*507899") as failed,
        npu.errors("no memory"),
    ):
        torch_npu.npu.synchronize()
    assert "\n" not in str(failed.value)


def test_hccl_errors_are_the_devices(npu: Device) -> None:
    text = "HCCL function error: HcclAllReduce, error code is 9\n[ERROR] … ERR02200 DIST call hccl"
    with (
        pytest.raises(DeviceFailed, match=r"^npu:0 failed: HCCL function error"),
        npu.errors("no memory"),
    ):
        raise RuntimeError(text)


def test_other_errors_stay_what_they_are(npu: Device) -> None:
    with pytest.raises(RuntimeError, match="a bug"), npu.errors("no memory"):
        raise RuntimeError("a bug")


def test_out_of_memory_is_one_line(npu: Device, emulation: Emulation, runtime: ctypes.CDLL) -> None:
    runtime.pretend_set_memory(64 * 2**20)
    with pytest.raises(Overloaded, match=r"^no memory$"), npu.errors("no memory"):
        torch.empty(2**30, dtype=torch.float16, device=npu.torch_device)


def test_no_memory_for_cann_itself_is_out_of_memory_too(npu: Device) -> None:
    error = RuntimeError("HCCL function error: HcclAllReduce, error code is 207018\nERR02200 DIST")
    assert npu.is_out_of_memory(error)
    assert not npu.is_out_of_memory(RuntimeError("error code is 507018"))
    with pytest.raises(Overloaded, match=r"^no memory$"), npu.errors("no memory"):
        raise error


def test_free_memory_leaves_hccl_its_buffers(npu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = open_device(DeviceOptions("npu", "float16"))
    ranked = open_device(DeviceOptions("npu", "float16", group_size=2))
    assert alone.free_memory_bytes() - ranked.free_memory_bytes() == 400 * 2**20
    monkeypatch.setenv("HCCL_BUFFSIZE", "100")
    assert alone.free_memory_bytes() - ranked.free_memory_bytes() == 200 * 2**20


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_no_weight_is_held_twice(ranks: int, npu: Device, emulation: Emulation) -> None:
    """The allocator's own peak while a rank's share is read, beside what stays."""
    checkpoint = Checkpoint.open(DEMO_MODEL)
    shard = Shard(ranks - 1, ranks)
    with held_and_peak() as memory, npu.errors(NO_MEMORY):
        runner = Runner.load(checkpoint, npu, shard, SingleRank(), blocks=1, block_size=128)
    assert runner.layers_done == 0
    assert memory["held"] >= checkpoint.values(vision=False) * 2 / ranks
    assert memory["peak"] <= 1.05 * memory["held"]


def test_no_weight_of_the_vision_tower_is_held_twice(npu: Device, emulation: Emulation) -> None:
    checkpoint = Checkpoint.open(DEMO_MODEL)
    with held_and_peak() as memory, torch.inference_mode():
        weights = Weights(checkpoint, npu.dtype, npu.torch_device)
        model = VisionModel(checkpoint.spec, weights, npu)
    assert model is not None  # alive when the memory was counted
    assert memory["held"] >= checkpoint.values(vision=True) * 2
    assert memory["peak"] <= 1.05 * memory["held"]


@contextmanager
def held_and_peak() -> Iterator[dict[str, int]]:
    """Bytes that stay behind the block, and the most that were held in it."""
    gc.collect()  # what earlier tests left must not go meanwhile
    torch_npu.npu.empty_cache()
    before = torch_npu.npu.memory_allocated()
    torch_npu.npu.reset_peak_memory_stats()
    memory: dict[str, int] = {}
    yield memory
    memory["held"] = torch_npu.npu.memory_allocated() - before
    memory["peak"] = torch_npu.npu.max_memory_allocated() - before
