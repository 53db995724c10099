"""Chips, dtypes and variables, which need no torch_npu to be tested."""

import pytest
import torch

from glm4v.device.npu.chip import Chip, chip_of, choose_dtype
from glm4v.device.npu.environment import DEFAULTS, hccl_buffer_bytes, set_defaults
from glm4v.device.npu.failures import device_failure, is_out_of_memory
from glm4v.errors import ConfigurationError


@pytest.mark.parametrize(
    ("soc", "is_310p"),
    [("Ascend910B3", False), ("Ascend910_9391", False), ("Ascend310P3", True)],
)
def test_generations(soc: str, is_310p: bool) -> None:
    dtypes = (torch.float16,) if is_310p else (torch.bfloat16, torch.float16)
    assert chip_of(soc) == Chip(soc, dtypes, is_310p)


@pytest.mark.parametrize("soc", ["Ascend910A", "Ascend310B4", "Ascend950PR"])
def test_other_chips_are_refused_by_name(soc: str) -> None:
    with pytest.raises(ConfigurationError, match=f"the chip {soc} is not supported"):
        chip_of(soc)


@pytest.mark.parametrize(
    ("soc", "asked", "is_bfloat16", "chosen"),
    [
        ("Ascend910B3", None, True, torch.bfloat16),
        ("Ascend910B3", None, False, torch.float16),
        ("Ascend910B3", torch.float16, True, torch.float16),
        ("Ascend310P3", None, True, torch.float16),
    ],
)
def test_dtypes(
    soc: str, asked: torch.dtype | None, is_bfloat16: bool, chosen: torch.dtype
) -> None:
    assert choose_dtype(chip_of(soc), asked, is_bfloat16=is_bfloat16) == chosen


@pytest.mark.parametrize(
    ("soc", "asked", "message"),
    [
        ("Ascend310P3", "bfloat16", "does not compute in bfloat16; use GLM4V_DTYPE=float16"),
        ("Ascend910B3", "float32", "not compute in float32; use GLM4V_DTYPE=bfloat16 or float16"),
    ],
)
def test_a_dtype_that_the_chip_lacks_is_one_line(soc: str, asked: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        choose_dtype(chip_of(soc), getattr(torch, asked), is_bfloat16=True)
    assert str(refused.value).startswith(f"{soc} ")
    assert str(refused.value).endswith(message)


def test_defaults_leave_what_is_set() -> None:
    environment = {"TASK_QUEUE_ENABLE": "2"}
    set_defaults(environment)
    assert environment == DEFAULTS | {"TASK_QUEUE_ENABLE": "2"}


def test_hccl_takes_two_buffers() -> None:
    assert hccl_buffer_bytes({}) == 400 * 2**20
    assert hccl_buffer_bytes({"HCCL_BUFFSIZE": "512"}) == 1024 * 2**20
    with pytest.raises(ConfigurationError, match="HCCL_BUFFSIZE is '1g'"):
        hccl_buffer_bytes({"HCCL_BUFFSIZE": "1g"})


def test_only_errors_of_the_device_are_its_failures() -> None:
    text = "synchronize: NPU function error: error code is 507018\n[ERROR] ERR00100 PTA call acl"
    assert device_failure(RuntimeError(text)) == (
        "synchronize: NPU function error: error code is 507018"
    )
    assert device_failure(RuntimeError("shape [2] is invalid")) is None
    assert device_failure(torch.OutOfMemoryError("ERR00100 PTA call acl")) is None


@pytest.mark.parametrize(("code", "is_memory"), [(207001, True), (207018, True), (507018, False)])
def test_some_codes_of_cann_are_out_of_memory(code: int, is_memory: bool) -> None:
    error = RuntimeError(f"aclrtMalloc, error code is {code}\n[ERROR] ERR00100 PTA call acl")
    assert is_out_of_memory(error) == is_memory
    assert (device_failure(error) is None) == is_memory
    assert not is_out_of_memory(ValueError(str(error)))
