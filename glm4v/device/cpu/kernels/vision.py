"""Layers of the vision tower, one native call each."""

import ctypes

import torch

from glm4v.device.base import VisionLayer, VisionLayerWeights, VisionShape
from glm4v.device.cpu.kernels import library
from glm4v.device.cpu.kernels.library import Kernels, check_floats
from glm4v.device.cpu.kernels.linear import PackedWeight, check_matrix


class KernelVisionLayer(VisionLayer):
    """A layer and the memory that holds it.

    Raises ValueError for weights whose shapes do not fit each other and `shape`.
    """

    def __init__(
        self, kernels: Kernels, weights: VisionLayerWeights, shape: VisionShape, *, bits: int
    ) -> None:
        _check_shapes(weights, shape)
        self._kernels = kernels
        self._norms = [
            values.contiguous()
            for values in (
                weights.attention_norm,
                weights.attention_norm_bias,
                weights.mlp_norm,
                weights.mlp_norm_bias,
            )
        ]
        self._packed = (
            PackedWeight(kernels, weights.qkv, weights.qkv_bias, bits=bits),
            PackedWeight(kernels, weights.out, weights.out_bias, bits=bits),
            PackedWeight(kernels, weights.up, weights.up_bias, bits=bits, epilogue="gelu"),
            PackedWeight(kernels, weights.down, weights.down_bias, bits=bits),
        )
        self._width = weights.out.shape[0]
        at = [values.data_ptr() for values in self._norms]
        self._struct = library.VisionLayer(
            library.LayerNorm(at[0], at[1], shape.norm_eps),
            library.LayerNorm(at[2], at[3], shape.norm_eps),
            *(packed.struct for packed in self._packed),
            shape.heads,
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, width] -> the same. Raises ValueError for another width or dtype."""
        x = x.contiguous()
        check_floats("x", x, (*x.shape[:2], self._width))
        y = torch.empty_like(x)
        for image, to in zip(x, y, strict=True):
            self._kernels.run_vision_layer(
                ctypes.byref(self._struct), len(image), image.data_ptr(), to.data_ptr()
            )
        return y


def _check_shapes(weights: VisionLayerWeights, shape: VisionShape) -> None:
    width, inner = weights.down.shape
    if width % shape.heads:
        raise ValueError(f"a width of {width} for {shape.heads} heads")
    check_matrix("qkv", weights.qkv, (3 * width, width))
    check_matrix("out", weights.out, (width, width))
    check_matrix("up", weights.up, (inner, width))
    for norm in ("attention_norm", "attention_norm_bias", "mlp_norm", "mlp_norm_bias"):
        check_floats(norm, getattr(weights, norm), (width,))
