"""8-bit weights through the whole language model: against the same numbers dequantized, and how far
they are from the original.
"""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.quantized import Quantization
from glm4v.checkpoint.quantized_copy import write_quantized
from glm4v.device import Device, DeviceOptions, open_device
from glm4v.device.cpu.device import CpuDevice
from tests.parity.golden_plans import cases, load_model, open_golden, play, read_case

pytestmark = pytest.mark.needs_compiler


class PlainDevice(CpuDevice):
    """torch alone, on weights that were quantized and dequantized."""

    def __init__(self, quantization: Quantization | None) -> None:
        super().__init__(torch.float32)
        self.quantization = quantization
        self.quantizes_embeddings = quantization is not None


@pytest.fixture(params=["int8", "int8-channel"])
def device(request: pytest.FixtureRequest) -> Device:
    return open_device(DeviceOptions("cpu", "float32", request.param))


def logits(checkpoint: Checkpoint, device: Device) -> list[torch.Tensor]:
    """Of every token that the original generated, images included."""
    golden = open_golden("bundled")
    played = [read_case(golden, case, checkpoint.spec) for case in cases(golden)]
    model = load_model(checkpoint, device)
    results = play(model, device, checkpoint.spec, played, chunk=7, block_size=4)
    return [result.logits for result in results]


def test_the_kernels_compute_what_the_rule_says(
    checkpoint_dir: Callable[[str], Path], device: Device
) -> None:
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    for ours, plain in zip(
        logits(checkpoint, device),
        logits(checkpoint, PlainDevice(device.quantization)),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, atol=5e-5, rtol=0)


def test_a_quantized_copy_computes_the_same(
    checkpoint_dir: Callable[[str], Path], device: Device, tmp_path: Path
) -> None:
    """Bit for bit what is computed when the same matrices are quantized while they are read."""
    original = checkpoint_dir("micro-glm4v")
    assert device.quantization is not None
    copy = write_quantized(original, tmp_path / "copy", device.quantization, lambda *_: None)
    for ours, loaded in zip(
        logits(copy, device), logits(Checkpoint.open(original), device), strict=True
    ):
        assert torch.equal(ours, loaded)
    assert device.language_bytes(copy) == device.language_bytes(Checkpoint.open(original))


def test_rounding_moves_logits_by_less_than_their_spread(
    checkpoint_dir: Callable[[str], Path], device: Device
) -> None:
    """8 bits are within 1/254 of the greatest weight of each group, or of each row."""
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    exact = logits(checkpoint, open_device(DeviceOptions("cpu", "float32")))
    for ours, original in zip(logits(checkpoint, device), exact, strict=True):
        assert not torch.equal(ours, original)
        assert (ours - original).norm() < 0.04 * original.norm()


def test_the_memory_of_weights_is_counted_with_their_scales(
    checkpoint_dir: Callable[[str], Path], device: Device
) -> None:
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    spec = checkpoint.spec
    width = (spec.heads + 2 * spec.kv_heads) * spec.head_dim
    layer = spec.hidden_size * (width + spec.heads * spec.head_dim + 3 * spec.ffn_size)
    matrices = spec.layers * layer + spec.vocab_size * spec.hidden_size
    assert sum(map(math.prod, checkpoint.matrices().values())) == matrices
    matrices += spec.vocab_size * spec.hidden_size  # embeddings of words
    others = checkpoint.values(vision=False) - matrices
    rows = spec.layers * (width + 2 * spec.hidden_size + 2 * spec.ffn_size) + 2 * spec.vocab_size
    down = spec.layers * spec.hidden_size  # rows of 176 inputs; all other widths are 64
    groups = (matrices - down * spec.ffn_size) // 64 + down * 3
    scales = {64: groups, None: rows}
    assert device.quantization is not None
    expected = matrices + 4 * scales[device.quantization.group] + 2 * others
    assert device.language_bytes(checkpoint) == expected
