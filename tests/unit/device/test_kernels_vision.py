"""The vision tower's layers in the kernels against those in torch."""

import dataclasses

import pytest
import torch

from glm4v.device import VisionLayerWeights, VisionShape
from glm4v.device.cpu.device import CpuDevice
from glm4v.device.cpu.kernels import Kernels, KernelVisionLayer
from tests.unit.device.sequences import random
from vision_worker.model import TorchVisionLayer

pytestmark = pytest.mark.needs_compiler

WIDTH, INNER = 72, 100
SHAPE = VisionShape(heads=3, norm_eps=1e-6)


def weights() -> VisionLayerWeights:
    return VisionLayerWeights(
        qkv=random(3 * WIDTH, WIDTH, seed=1) / 8,
        qkv_bias=random(3 * WIDTH, seed=2),
        out=random(WIDTH, WIDTH, seed=3) / 8,
        out_bias=random(WIDTH, seed=4),
        attention_norm=1 + 0.1 * random(WIDTH, seed=5),
        attention_norm_bias=random(WIDTH, seed=6),
        up=random(INNER, WIDTH, seed=7) / 8,
        up_bias=random(INNER, seed=8),
        down=random(WIDTH, INNER, seed=9) / 10,
        down_bias=random(WIDTH, seed=10),
        mlp_norm=1 + 0.1 * random(WIDTH, seed=11),
        mlp_norm_bias=random(WIDTH, seed=12),
    )


@pytest.mark.parametrize("tokens", [1, 17, 1025])
def test_a_layer_is_that_of_double_precision(kernels: Kernels, tokens: int) -> None:
    x = random(2, tokens, WIDTH)
    exact = {
        field.name: getattr(weights(), field.name).double()
        for field in dataclasses.fields(VisionLayerWeights)
    }
    plain = TorchVisionLayer(VisionLayerWeights(**exact), SHAPE, CpuDevice(torch.float64))
    expected = plain(x.double())
    before = x.clone()
    ours = KernelVisionLayer(kernels, weights(), SHAPE, bits=32)(x)
    torch.testing.assert_close(ours.double(), expected, atol=2e-5, rtol=0)
    assert torch.equal(x, before)


def test_neither_other_images_nor_threads_change_an_image(kernels: Kernels) -> None:
    layer, x = KernelVisionLayer(kernels, weights(), SHAPE, bits=16), random(2, 700, WIDTH)
    together = layer(x)
    for threads in (1, 2, 5):  # strips of other sizes
        kernels.set_num_threads(threads)
        assert torch.equal(layer(x[1:]), together[1:])
    kernels.set_num_threads(3)


def test_a_row_of_large_values_is_normalised(kernels: Kernels) -> None:
    """The squares' sum would lose what the distance from the mean keeps."""
    shifted = dataclasses.replace(weights(), down_bias=weights().down_bias + 3000)
    exact = {
        field.name: getattr(shifted, field.name).double()
        for field in dataclasses.fields(VisionLayerWeights)
    }
    x = random(1, 5, WIDTH)
    plain = TorchVisionLayer(VisionLayerWeights(**exact), SHAPE, CpuDevice(torch.float64))
    ours = KernelVisionLayer(kernels, shifted, SHAPE, bits=32)(x)
    torch.testing.assert_close(ours.double(), plain(x.double()), atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["qkv", "out", "up", "mlp_norm", "attention_norm_bias"])
def test_weights_that_do_not_fit_are_an_error(kernels: Kernels, name: str) -> None:
    wrong = dataclasses.replace(weights(), **{name: getattr(weights(), name)[:-1]})
    with pytest.raises(ValueError, match=name):
        KernelVisionLayer(kernels, wrong, SHAPE, bits=32)


def test_another_width_is_an_error(kernels: Kernels) -> None:
    layer = KernelVisionLayer(kernels, weights(), SHAPE, bits=32)
    with pytest.raises(ValueError, match="x: expected"):
        layer(random(1, 5, WIDTH + 1))
