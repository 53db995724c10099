"""16-bit weights with float32 arithmetic, against float32 and the original."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import Device, DeviceOptions, open_device
from glm4v.device.cpu.device import CpuDevice
from glm4v.device.cpu.kernels import library
from glm4v.errors import ConfigurationError
from tests.parity.golden_plans import cases, load_model, open_golden, play, read_case


@pytest.fixture
def device() -> Device:
    return open_device(DeviceOptions("cpu", "float32", "bfloat16"))


@pytest.mark.needs_compiler
def test_a_bfloat16_checkpoint_gives_the_original_outputs(
    checkpoint_dir: Callable[[str], Path], device: Device
) -> None:
    """Nothing is lost but the order of sums. Images included."""
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    assert checkpoint.is_bfloat16(vision=True)
    assert checkpoint.is_bfloat16(vision=False)
    golden = open_golden("bundled")
    model = load_model(checkpoint, device)
    played = [read_case(golden, case, checkpoint.spec) for case in cases(golden)]
    results = play(model, device, checkpoint.spec, played, chunk=7, block_size=4)
    for case, result in zip(played, results, strict=True):
        torch.testing.assert_close(result.logits[0], case.last_logits, atol=2e-5, rtol=0)
        assert tuple(token.token_id for token in result.tokens)[: len(case.tokens)] == case.tokens


@pytest.mark.needs_compiler
def test_a_bfloat16_checkpoint_gives_what_float32_weights_give(
    checkpoint_dir: Callable[[str], Path], device: Device
) -> None:
    """The same numbers are added in the same order: not a bit differs."""
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    golden = open_golden("bundled")
    played = [read_case(golden, case, checkpoint.spec) for case in cases(golden)]
    halves, floats = (
        play(load_model(checkpoint, d), d, checkpoint.spec, played, chunk=7, block_size=4)
        for d in (device, open_device(DeviceOptions("cpu", "float32")))
    )
    for half, full in zip(halves, floats, strict=True):
        assert torch.equal(half.logits, full.logits)


def test_outputs_match_the_original_without_kernels(
    checkpoint_dir: Callable[[str], Path],
) -> None:
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    device = CpuDevice(torch.float32)
    golden = open_golden("bundled")
    played = [read_case(golden, case, checkpoint.spec) for case in cases(golden)]
    model = load_model(checkpoint, device)
    results = play(model, device, checkpoint.spec, played, chunk=7, block_size=4)
    for case, result in zip(played, results, strict=True):
        torch.testing.assert_close(result.logits[0], case.last_logits, atol=2e-5, rtol=0)
        assert tuple(token.token_id for token in result.tokens)[: len(case.tokens)] == case.tokens


@pytest.mark.needs_compiler
@pytest.mark.parametrize("shape", [(1024, 768), (5120, 768), (768, 2560)])
@pytest.mark.parametrize("rows", [0, 1, 3, 10, 300])
def test_float32_weights_are_rounded_and_nothing_else_is(
    device: Device, shape: tuple[int, int], rows: int
) -> None:
    torch.manual_seed(0)
    weight, bias, x = (
        torch.randn(shape) / shape[1] ** 0.5,
        torch.randn(shape[0]),
        torch.randn(rows, shape[1]),
    )
    product = device.linear(weight, bias)(x)
    rounded = x.double() @ weight.bfloat16().double().T + bias.double()
    torch.testing.assert_close(product.double(), rounded, atol=2e-5, rtol=0)
    exact = x.double() @ weight.double().T + bias.double()
    assert (product - exact).norm() <= 3e-3 * exact.norm()


@pytest.mark.needs_compiler
def test_tables_are_stored_in_16_bits_too(device: Device) -> None:
    assert device.embedding(torch.randn(9, 4))(torch.tensor([3])).dtype == torch.bfloat16
    assert (device.dtype, device.weight_bytes) == (torch.float32, 2)


@pytest.mark.needs_compiler
def test_auto_takes_16_bits_where_they_lose_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert open_device(DeviceOptions(is_bfloat16=True)).weight_bytes == 2
    assert "float32, weights bfloat16, native kernels" in caplog.text
    assert open_device(DeviceOptions(is_bfloat16=False)).weight_bytes == 4


def test_without_a_compiler_torch_computes_and_the_log_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("glm4v.device.cpu.kernels.variants.PREBUILT", tmp_path)
    library.open_kernels.cache_clear()
    try:
        with caplog.at_level(logging.INFO):
            assert open_device(DeviceOptions(is_bfloat16=True)).weight_bytes == 4
        assert "device cpu: float32, PyTorch" in caplog.text
        assert "no C++ compiler found (no-such-compiler); install one" in caplog.text
        with pytest.raises(ConfigurationError, match="needs a C\\+\\+ compiler"):
            open_device(DeviceOptions("cpu", "float32", "bfloat16"))
    finally:
        library.open_kernels.cache_clear()
