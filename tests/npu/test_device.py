"""How a device is opened, and what it says of itself."""

import gc

import pytest
import torch
import torch_npu

from glm4v.device import Device, DeviceOptions, open_device
from glm4v.errors import ConfigurationError
from tests.npu.conftest import SOC
from tests.npu.pretend.emulation import Emulation

MEMORY = 2 * 2**30  # of pretend/runtime.c


def test_it_says_what_it_is(npu: Device) -> None:
    assert npu.name == "npu:0"
    assert npu.torch_device == torch.device("npu", 0)
    assert npu.description == f"{SOC}, float16"
    assert npu.weight_bytes == npu.dtype.itemsize == 2
    assert npu.block_size == 128
    assert npu.kv_bytes_per_token(layers=3, kv_heads=2, head_dim=8) == 2 * 3 * 2 * 128 * 2


def test_auto_is_the_checkpoints_dtype_if_the_chip_has_it(npu: Device) -> None:
    best = torch.bfloat16 if SOC.startswith("Ascend910B") else torch.float16
    assert open_device(DeviceOptions("npu", is_bfloat16=True)).dtype == best
    assert open_device(DeviceOptions("npu")).dtype == torch.float16


def test_weights_of_another_dtype_are_one_line(npu: Device) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_device(DeviceOptions("npu", "float16", "float32"))
    assert str(refused.value) == (
        "the NPU stores weights in the dtype it computes in or in 8 bits, float32 was asked for; "
        "leave GLM4V_WEIGHT_DTYPE out"
    )
    assert open_device(DeviceOptions("npu", "float16", "float16")).dtype == torch.float16


def test_casts_to_nz_are_heeded_on_the_310p(npu: Device) -> None:
    """Without the option torch_npu ignores them, and the NZ cache and weights would be ND."""
    wanted = b"enable" if SOC.startswith("Ascend310P") else b"disable"
    torch_npu.npu.config.allow_internal_format = wanted == b"disable"
    open_device(DeviceOptions("npu", "float16"))
    assert torch_npu._C._npu_getOption("ALLOW_INTERNAL_FORMAT") == wanted


def test_free_memory_is_what_nobody_took(npu: Device) -> None:
    gc.collect()  # what earlier tests left must not go meanwhile
    torch_npu.npu.empty_cache()
    before = npu.free_memory_bytes()
    taken = torch.empty(2**26, dtype=torch.float16, device=npu.torch_device)
    assert 2**27 <= before - npu.free_memory_bytes() < 2**28
    assert MEMORY / 2 < before <= MEMORY
    del taken


@pytest.mark.parametrize(
    ("visible", "among"), [(None, ""), ("0,3", " with ASCEND_RT_VISIBLE_DEVICES=0,3")]
)
def test_too_few_devices_are_one_line(
    visible: str | None, among: str, npu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigurationError) as refused:
        open_device(DeviceOptions("npu", "float16", local_rank=1, local_size=2))
    assert str(refused.value) == (
        f"2 ranks need an NPU each, 1 are visible{among}; a 300I Duo card has two"
    )
    monkeypatch.setattr(torch_npu.npu, "device_count", lambda: 0)
    with pytest.raises(ConfigurationError) as refused:
        open_device(DeviceOptions("npu", "float16"))
    assert str(refused.value) == (
        f"no NPU is visible{among}; look with npu-smi info, and at the container's devices"
    )


def test_a_rank_takes_the_device_of_its_number(
    npu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch_npu.npu, "device_count", lambda: 4)
    monkeypatch.setattr(torch_npu.npu, "set_device", chosen.append)
    monkeypatch.setattr(torch_npu.npu, "get_device_name", lambda index: f"{SOC}, {index}")
    device = open_device(DeviceOptions("npu", "float16", local_rank=3, local_size=4))
    assert chosen == [3]
    assert device.name == "npu:3"
    assert device.description == f"{SOC}, 3, float16"  # the name of that device was asked for


def test_a_device_that_does_not_start_is_one_line(
    npu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(index: int) -> None:
        raise RuntimeError("SetDevice: error code is 507033\n[ERROR] ERR00100 PTA call acl")

    monkeypatch.setattr(torch_npu.npu, "set_device", broken)
    with pytest.raises(ConfigurationError) as refused:
        open_device(DeviceOptions("npu", "float16"))
    assert str(refused.value) == "NPU 0 does not start: SetDevice: error code is 507033"


def test_norms_keep_small_values_small(npu: Device, emulation: Emulation) -> None:
    """By the epsilon, which is larger than the squares here."""
    weight = torch.full((64,), 2.0, dtype=torch.float16, device=npu.torch_device)
    x = torch.full((1, 64), 1e-3, dtype=torch.float16, device=npu.torch_device)
    normed = npu.rms_norm(weight, 1e-4)(x)
    assert float(normed[0, 0].cpu()) == pytest.approx(2e-3 / (1e-6 + 1e-4) ** 0.5, rel=2e-3)
