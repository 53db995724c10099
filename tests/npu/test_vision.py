"""The vision tower on the pretend device against the golden embeddings."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.weights import Weights
from glm4v.device import DeviceOptions, open_device
from tests.npu.conftest import DTYPES, SOC
from tests.npu.pretend.emulation import Emulation
from tests.npu.required import VISION
from tests.parity.golden_plans import cases, open_golden
from vision_worker.model import VisionModel

TOLERANCE = {"float16": 0.02, "bfloat16": 0.15}  # of embeddings, all of order 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_embeddings_are_the_references(
    dtype: str, emulation: Emulation, checkpoint_dir: Callable[[str], Path]
) -> None:
    device = open_device(DeviceOptions("npu", dtype))
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    weights = Weights(checkpoint, device.dtype, device.torch_device)
    golden = open_golden("bundled")
    named = [case for case in cases(golden) if f"{case}/pixel_values" in golden]
    pixels = torch.stack([torch.from_numpy(golden[f"{case}/pixel_values"]) for case in named])
    model = VisionModel(checkpoint.spec, weights, device)
    rows = model.encode(pixels.to(device.dtype).to(device.torch_device), lambda: None)
    for case, row in zip(named, rows.float().cpu(), strict=True):
        expected = torch.from_numpy(golden[f"{case}/vision_embeddings"])
        assert (row - expected).abs().max() < TOLERANCE[dtype], case
    assert set(emulation.calls) >= VISION[SOC]


def test_gelu_is_the_exact_one(emulation: Emulation) -> None:
    """The approximation by tanh differs by 2e-4 here, where float16 has steps of 3e-5."""
    device = open_device(DeviceOptions("npu", "float16"))
    identity = torch.eye(64, dtype=torch.float16).to(device.torch_device)
    x = torch.linspace(-2.5, -1.5, 64).half()
    out = device.linear(identity, epilogue="gelu")(x[None].to(device.torch_device))
    exact = torch.nn.functional.gelu(x.float())
    assert (out[0].float().cpu() - exact).abs().max() < 1e-4


@pytest.mark.parametrize("head_dim", [112, 64, 128])
def test_heads_narrower_than_128_are_filled_and_cut(head_dim: int, emulation: Emulation) -> None:
    device = open_device(DeviceOptions("npu", "float16"))
    qkv = torch.randn(2, 33, 3, 4, head_dim, generator=torch.Generator().manual_seed(0))
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    out = device.full_attention(qkv.half().to(device.torch_device))
    assert out.shape == (2, 33, 4, head_dim)
    assert (out.float().cpu() - attended.transpose(1, 2)).abs().max() < 0.005
