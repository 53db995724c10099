"""Which device is opened, with which dtypes, threads and share of the host."""

import pytest
import torch

from glm4v.checkpoint.quantized import CHANNELS, GROUPS, Quantization
from glm4v.device import DeviceOptions, open_device
from glm4v.device.cpu import device as cpu
from glm4v.errors import ConfigurationError


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere "auto" is a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("options", "dtype", "weight_bytes"),
    [
        (DeviceOptions(), torch.float32, 4),
        pytest.param(
            DeviceOptions(is_bfloat16=True), torch.float32, 2, marks=pytest.mark.needs_compiler
        ),
        (DeviceOptions(dtype="float32", is_bfloat16=True), torch.float32, 4),
        (DeviceOptions("cpu", "auto", "float32", is_bfloat16=True), torch.float32, 4),
        pytest.param(
            DeviceOptions("cpu", "float32", "bfloat16"),
            torch.float32,
            2,
            marks=pytest.mark.needs_compiler,
        ),
        (DeviceOptions("auto", "bfloat16", is_bfloat16=True), torch.bfloat16, 2),
        (DeviceOptions("auto", "float16", "float16"), torch.float16, 2),
    ],
)
def test_the_cpu_stores_weights_in_16_bits_if_asked_or_if_nothing_is_lost(
    options: DeviceOptions, dtype: torch.dtype, weight_bytes: int
) -> None:
    device = open_device(options)
    assert (device.name, device.dtype, device.weight_bytes) == ("cpu", dtype, weight_bytes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DeviceOptions("tpu"), "unknown device 'tpu'; use one of auto, cpu, cuda, npu, simulated"),
        (DeviceOptions("cpu", "int8"), "unknown dtype 'int8'; use one of auto, float32"),
        (
            DeviceOptions("cpu", "float32", "int4"),
            "unknown dtype 'int4'; use .* int8, int8-channel$",
        ),
        (DeviceOptions("cpu", "bfloat16", "int8"), "in bfloat16 from weights in int8"),
        (DeviceOptions("simulated", "auto", "int8"), "simulated device has float32 only"),
        (DeviceOptions("cpu", "auto", "float16"), "in float32 from weights in float16"),
        (DeviceOptions("simulated", "bfloat16"), "simulated device has float32 only"),
        (DeviceOptions("cpu", "bfloat16", "float32"), "in bfloat16 from weights in float32"),
    ],
)
def test_options_that_cannot_be_satisfied_are_refused(options: DeviceOptions, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_device(options)


@pytest.mark.needs_compiler
@pytest.mark.parametrize(
    ("dtype", "quantization", "per"),
    [("int8", GROUPS, "group"), ("int8-channel", CHANNELS, "channel")],
)
def test_8_bits_are_for_the_matrices_of_the_language_model(
    dtype: str, quantization: Quantization, per: str
) -> None:
    device = open_device(DeviceOptions("cpu", weight_dtype=dtype, is_bfloat16=True))
    assert device.description == f"float32, weights int8 per {per} and bfloat16, native kernels"
    assert (device.quantization, device.weight_bytes) == (quantization, 2)
    assert device.quantizes_embeddings


@pytest.mark.needs_compiler
@pytest.mark.parametrize(
    ("weight_dtype", "weights"),
    [
        ("auto", "int8 by GPTQ (4 bits) and bfloat16"),
        ("bfloat16", "bfloat16"),  # the file's matrices are widened
        ("int8", "int8 per group and bfloat16"),
    ],
)
def test_a_device_says_what_has_quantized_its_weights(weight_dtype: str, weights: str) -> None:
    options = DeviceOptions(
        "cpu", weight_dtype=weight_dtype, is_bfloat16=True, quantized_by="GPTQ (4 bits)"
    )
    assert open_device(options).description == f"float32, weights {weights}, native kernels"


def test_without_kernels_quantized_weights_are_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "open_kernels", lambda: None)
    options = DeviceOptions("cpu", is_bfloat16=True, quantized_by="GPTQ (4 bits)")
    assert open_device(options).description == "float32, PyTorch"


def test_the_device_sets_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        open_device(DeviceOptions("cpu", "float32", threads=3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_ranks_of_one_host_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "free_host_memory_bytes", lambda: 1200)
    free = [
        open_device(DeviceOptions("cpu", local_rank=0, local_size=size)).free_memory_bytes()
        for size in (1, 3)
    ]
    assert free == [1200, 400]
