"""The vision tower of GLM-4V (EVA2-CLIP) and the adapter to the language model.

Source of the arithmetic: visual.py of THUDM/glm-4v-9b. The tower's tokens are the class token and
the patches of the image in row-major order; it has no rotary positions and no final norm.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

from glm4v.checkpoint.quantized import Matrix
from glm4v.checkpoint.spec import ModelSpec, VisionSpec
from glm4v.checkpoint.weights import Weights
from glm4v.device import Device, VisionLayer, VisionLayerWeights, VisionShape

_ROOT = "transformer.vision."
_ADAPTER_NORM_EPS = 1e-5  # torch's default, which visual.py leaves as it is


class LayerNorm:
    """Normalised to mean 0 and variance 1, then scaled and shifted."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
        self._weight = weight
        self._bias = bias
        self._eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width] -> the same."""
        return functional.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)


class Squares:
    """A convolution whose squares do not overlap, as a product: torch takes twice as long."""

    def __init__(self, name: str, size: int, weights: Weights, device: Device) -> None:
        self._size = size
        rows = weights.read_squares(name + ".weight")
        self._product = device.linear(rows, weights.read(name + ".bias"))

    def __call__(self, grid: torch.Tensor) -> torch.Tensor:
        """[batch, height, width, channels] -> [batch, height / size * width / size, out]."""
        batch, height, width, channels = grid.shape
        size = self._size
        squares = grid.reshape(batch, height // size, size, width // size, size, channels)
        return self._product(squares.transpose(2, 3).reshape(batch, -1, size * size * channels))


class PatchEmbedding:
    """The class token and the patches, each with its position embedding added."""

    def __init__(self, spec: VisionSpec, weights: Weights, device: Device) -> None:
        name = _ROOT + "patch_embedding."
        self._project = Squares(name + "proj", spec.patch_size, weights, device)
        self._class_token = weights.read(name + "cls_embedding")  # [1, width]
        self._positions = weights.read(name + "position_embedding.weight")  # [1 + patches, width]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """[batch, 3, size, size] -> [batch, 1 + patches, width]."""
        patches = self._project(pixels.permute(0, 2, 3, 1))
        first = self._class_token.expand(len(pixels), 1, -1)
        return torch.cat((first, patches), dim=1) + self._positions


class TorchVisionLayer(VisionLayer):
    """A layer in plain PyTorch, operation by operation: the reference for every device."""

    def __init__(self, weights: VisionLayerWeights, shape: VisionShape, device: Device) -> None:
        eps = shape.norm_eps
        self._heads = shape.heads
        self._device = device
        self._qkv = device.linear(weights.qkv, weights.qkv_bias)
        self._out = device.linear(weights.out, weights.out_bias)
        self._attention_norm = LayerNorm(weights.attention_norm, weights.attention_norm_bias, eps)
        self._up = device.linear(weights.up, weights.up_bias, epilogue="gelu")
        self._down = device.linear(weights.down, weights.down_bias)
        self._mlp_norm = LayerNorm(weights.mlp_norm, weights.mlp_norm_bias, eps)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, width] -> the same."""
        x = x + self._attention_norm(self._attention(x))
        return x + self._mlp_norm(self._mlp(x))

    def _attention(self, x: torch.Tensor) -> torch.Tensor:
        heads = self._qkv(x).view(*x.shape[:2], 3, self._heads, -1)
        return self._out(self._device.full_attention(heads).flatten(2))

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        return self._down(self._up(x))


class Downsample:
    """Merges 2 x 2 patches to the width of the language model; drops the class token."""

    def __init__(self, spec: VisionSpec, weights: Weights, device: Device) -> None:
        self._grid = spec.grid
        self._merge = Squares(_ROOT + "conv", 2, weights, device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 1 + grid * grid, width] -> [batch, grid / 2 * grid / 2, hidden]."""
        return self._merge(x[:, 1:].reshape(len(x), self._grid, self._grid, -1))


class Adapter:
    """A projection, a norm and a gated MLP."""

    def __init__(self, weights: Weights, device: Device) -> None:
        name = _ROOT + "linear_proj."
        self._project = device.linear(weights.read_matrix(name + "linear_proj.weight"))
        norm = name + "norm1."
        self._norm = LayerNorm(
            weights.read(norm + "weight"), weights.read(norm + "bias"), _ADAPTER_NORM_EPS
        )
        self._gate_up = device.linear(  # no name: a device may hold a copy of its own
            weights.read_stacked(name + "gate_proj.weight", name + "dense_h_to_4h.weight"),
            epilogue="silu_gate",
        )
        self._down = device.linear(weights.read_matrix(name + "dense_4h_to_h.weight"))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, hidden] -> the same."""
        x = functional.gelu(self._norm(self._project(x)))
        return self._down(self._gate_up(x))


class VisionModel:
    """Encodes images for the language model; tests compare its public stages one by one."""

    def __init__(self, spec: ModelSpec, weights: Weights, device: Device) -> None:
        self.patch_embedding = PatchEmbedding(spec.vision, weights, device)
        self.blocks = [
            _layer(layer, spec.vision, weights, device) for layer in range(spec.vision.layers)
        ]
        self.downsample = Downsample(spec.vision, weights, device)
        self.adapter = Adapter(weights, device)
        self._begin = weights.read(_ROOT + "boi")  # [1, 1, hidden]
        self._end = weights.read(_ROOT + "eoi")
        self._scaling_factor = spec.vision.scaling_factor

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor, on_layer: Callable[[], None]) -> torch.Tensor:
        """[batch, 3, size, size] -> [batch, image tokens, hidden]: begin, patches, end.

        `on_layer` is called after each layer of the tower; an exception from it ends the work.
        """
        x = self.patch_embedding(pixels)
        for block in self.blocks:
            x = block(x)
            on_layer()
        patches = self.adapter(self.downsample(x))
        begin = self._begin.expand(len(pixels), 1, -1)
        end = self._end.expand(len(pixels), 1, -1)
        return torch.cat((begin, patches, end), dim=1) / self._scaling_factor


def _layer(number: int, spec: VisionSpec, weights: Weights, device: Device) -> VisionLayer:
    """The device's own layer where it has one."""

    root = f"{_ROOT}transformer.layers.{number}."

    def matrix(name: str) -> tuple[Matrix, torch.Tensor]:
        at = root + name
        return weights.read_matrix(at + ".weight"), weights.read(at + ".bias")

    def norm(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return weights.read(root + name + ".weight"), weights.read(root + name + ".bias")

    layer = VisionLayerWeights(
        *matrix("attention.query_key_value"),
        *matrix("attention.dense"),
        *norm("input_layernorm"),
        *matrix("mlp.fc1"),
        *matrix("mlp.fc2"),
        *norm("post_attention_layernorm"),
    )
    shape = VisionShape(spec.heads, spec.norm_eps)
    return device.vision_layer(layer, shape) or TorchVisionLayer(layer, shape, device)
