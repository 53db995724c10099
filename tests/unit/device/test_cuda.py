"""Which GPU is opened, and in which dtype; what there is to say without one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from glm4v.device import DeviceOptions, best_device, open_device
from glm4v.device.cuda import device as cuda
from glm4v.device.cuda.device import CudaDevice, choose_dtype
from glm4v.device.cuda.graph import CudaGraphs
from glm4v.errors import ConfigurationError, DeviceFailed, Overloaded


@pytest.mark.parametrize(
    ("options", "has_bfloat16", "dtype"),
    [
        (DeviceOptions(is_bfloat16=True), True, torch.bfloat16),
        (DeviceOptions(is_bfloat16=True), False, torch.float16),
        (DeviceOptions(is_bfloat16=False), True, torch.float16),
        (DeviceOptions(dtype="float32"), True, torch.float32),
        (DeviceOptions(dtype="bfloat16", weight_dtype="bfloat16"), True, torch.bfloat16),
    ],
)
def test_the_dtype_is_that_of_the_checkpoint_if_the_gpu_has_it(
    options: DeviceOptions, has_bfloat16: bool, dtype: torch.dtype
) -> None:
    assert choose_dtype(options, has_bfloat16=has_bfloat16) == dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DeviceOptions(dtype="bfloat16"), "this GPU has no bfloat16; use GLM4V_DTYPE=float16"),
        (DeviceOptions(weight_dtype="float32"), "leave GLM4V_WEIGHT_DTYPE out"),
        (DeviceOptions(dtype="int8"), "unknown dtype 'int8'"),
    ],
)
def test_dtypes_that_a_gpu_cannot_have(options: DeviceOptions, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        choose_dtype(options, has_bfloat16=False)


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match=r"PyTorch .*; `glm4v doctor` says"):
        open_device(DeviceOptions("cuda"))
    assert best_device() == "cpu"


def test_auto_takes_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best_device() == "cuda"


def test_a_group_needs_as_many_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigurationError, match="4 ranks need a GPU each, 2 are visible"):
        open_device(DeviceOptions("cuda", local_rank=1, local_size=4))


def test_errors_of_the_libraries_are_out_of_memory_too() -> None:
    device = CudaDevice(torch.device("cpu"), torch.float32)
    assert device.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to …"))
    assert device.is_out_of_memory(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    )
    assert not device.is_out_of_memory(RuntimeError("CUDA error: an illegal memory access"))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA …"),
            DeviceFailed,
            "cpu failed: CUDA error: an illegal memory access was encountered",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
            DeviceFailed,
            "cpu failed: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
        ),
        (torch.AcceleratorError("CUDA error: out of memory"), Overloaded, "no memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to …"), Overloaded, "no memory"),
        (RuntimeError("a bug"), RuntimeError, "a bug"),
    ],
)
def test_a_failed_gpu_is_one_line(error: RuntimeError, kind: type[Exception], message: str) -> None:
    device = CudaDevice(torch.device("cpu"), torch.float32)
    with pytest.raises(kind) as raised, device.errors("no memory"):
        raise error
    assert str(raised.value) == message


def test_a_rank_computes_on_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    device = cuda.CudaDevice.open(DeviceOptions("cuda", local_rank=1, local_size=2))
    assert chosen == [1]
    assert (device.name, device.dtype, device.weight_bytes) == ("cuda:1", torch.float16, 2)


def test_graphs_are_recorded_on_their_device_in_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """`set_device` counts in its own thread only."""
    events: list[str] = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        events.append(f"enter {device}")
        yield
        events.append(f"leave {device}")

    def event(name: str) -> Callable[..., Any]:
        def called(*_: object, **__: object) -> Any:
            events.append(name)
            return MagicMock()

        return called

    monkeypatch.setattr(torch.cuda, "device", current)
    for name in ("Stream", "CUDAGraph", "graph", "graph_pool_handle", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, event(name))
    output = torch.ones(1)
    recording = CudaGraphs(torch.device("cuda", 1)).record(lambda: output)
    assert recording.replay() is output
    assert events[:2] == ["graph_pool_handle", "enter cuda:1"]
    assert {"Stream", "CUDAGraph", "graph"} <= set(events[2:-1])
    assert events[-1] == "leave cuda:1"
