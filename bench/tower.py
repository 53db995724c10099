"""Measures the vision tower beside the rate of matrix products, which bounds it."""

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.geometry import GLM_4V_9B, RandomWeights
from glm4v.checkpoint.spec import ModelSpec, VisionSpec
from glm4v.device import Device
from vision_worker.model import VisionModel

_PRODUCT = 2048  # rows and columns of the product that the matrix rate is measured with
_LEAST_S = 0.2  # measured at once: shorter work is repeated


@dataclass(frozen=True, slots=True)
class Round:
    """Floating-point operations a second; those of products are measured before and after."""

    matrix: float
    attention: float
    tower: float


@dataclass(frozen=True, slots=True)
class Figures:
    """A image of `pixels` x `pixels`."""

    pixels: int
    tokens: int
    operations: int  # of the whole tower and the adapter
    rounds: tuple[Round, ...]

    @property
    def matrix(self) -> float:
        """Median rate of products."""
        return statistics.median(one.matrix for one in self.rounds)

    @property
    def attention_shares(self) -> list[float]:
        """Rate of attention over that of products, ascending."""
        return sorted(one.attention / one.matrix for one in self.rounds)

    @property
    def tower_shares(self) -> list[float]:
        """Rate of a whole image over that of products, ascending."""
        return sorted(one.tower / one.matrix for one in self.rounds)

    @property
    def encode_s(self) -> float:
        """Median time of an image."""
        return statistics.median(self.operations / one.tower for one in self.rounds)


def medium_tower(pixels: int) -> ModelSpec:
    """The vision tower of the medium model for other images, with the sizes around it."""
    vision = dataclasses.replace(
        GLM_4V_9B.vision, hidden_size=512, layers=8, heads=8, mlp_size=2048, image_size=pixels
    )
    return dataclasses.replace(
        GLM_4V_9B, hidden_size=768, layers=1, heads=12, head_dim=64, ffn_size=2560, vision=vision
    )


@torch.inference_mode()
def measure(device: Device, spec: ModelSpec, rounds: int, clock: Callable[[], float]) -> Figures:
    """All rates in turns by `clock`, in seconds, after one round that does not count."""
    vision = spec.vision
    model = VisionModel(spec, RandomWeights(spec, device), device)
    pixels = torch.randn(1, 3, vision.image_size, vision.image_size)
    tokens, head_dim = vision.grid**2 + 1, vision.hidden_size // vision.heads
    qkv = torch.randn(1, tokens, 3, vision.heads, head_dim)
    square = torch.randn(_PRODUCT, _PRODUCT)
    pixels, qkv, square = (
        tensor.to(device.torch_device, device.dtype) for tensor in (pixels, qkv, square)
    )
    product = device.linear(square.clone())

    def matrix() -> float:
        return _rate(2 * _PRODUCT**3, lambda: product(square), clock)

    def one_round() -> Round:
        before = matrix()
        attention = _rate(_attention_operations(vision), lambda: device.full_attention(qkv), clock)
        tower = _rate(operations(spec), lambda: model.encode(pixels, lambda: None), clock)
        return Round((before + matrix()) / 2, attention, tower)

    one_round()
    measured = tuple(one_round() for _ in range(rounds))
    return Figures(vision.image_size, tokens, operations(spec), measured)


def operations(spec: ModelSpec) -> int:
    """Multiplications and additions in all products of an image."""
    vision, hidden = spec.vision, spec.hidden_size
    patches, width = vision.grid**2, vision.hidden_size
    embedding = 2 * patches * 3 * vision.patch_size**2 * width
    matrices = 2 * (patches + 1) * (4 * width**2 + 2 * width * vision.mlp_size)
    merging = 2 * patches * width * hidden  # by four, of four times the width
    adapter = 2 * (patches // 4) * (hidden**2 + 3 * hidden * spec.ffn_size)
    layer = matrices + _attention_operations(vision)
    return embedding + vision.layers * layer + merging + adapter


def _rate(count: int, work: Callable[[], torch.Tensor], clock: Callable[[], float]) -> float:
    """`count` operations a second; reading a value waits for the device."""
    start, times = clock(), 0
    while (taken := clock() - start) < _LEAST_S:
        work().flatten()[0].item()
        times += 1
    return times * count / taken


def _attention_operations(vision: VisionSpec) -> int:
    """Both products of one layer's attention."""
    return 4 * (vision.grid**2 + 1) ** 2 * vision.hidden_size
