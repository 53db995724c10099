"""Decoder layers, fused into as few native calls as tensor parallelism allows."""

import ctypes
from collections.abc import Iterable

import torch

from glm4v.device.base import Attention, Decoder, DecoderShape, LayerWeights
from glm4v.device.collectives import Collective
from glm4v.device.cpu.kernels.attention import KernelAttention
from glm4v.device.cpu.kernels.library import (
    AttentionMetadata,
    DecoderLayer,
    DecoderModel,
    Kernels,
    check_floats,
)
from glm4v.device.cpu.kernels.linear import PackedWeight, check_matrix


class KernelDecoder(Decoder):
    """One rank's part of all layers. Rank 0 alone adds the residual, as the ranks are summed.

    Raises ValueError for weights and angles whose shapes do not fit `shape`.
    """

    def __init__(
        self,
        kernels: Kernels,
        layers: Iterable[LayerWeights],
        shape: DecoderShape,
        collective: Collective,
        *,
        bits: int,
    ) -> None:
        self._kernels = kernels
        self._collective = collective
        self._packed = [_PackedLayer(kernels, weights, shape, bits) for weights in layers]
        self._layers = (DecoderLayer * len(self._packed))(
            *(packed.struct for packed in self._packed)
        )
        self._angles = (shape.cosine.contiguous(), shape.sine.contiguous())
        cosine, sine = self._angles
        for angles in self._angles:
            check_floats("angles", angles, (len(cosine), cosine.shape[1]))
        if 2 * cosine.shape[1] > shape.head_dim:
            raise ValueError(f"{cosine.shape[1]} rotary pairs in a head of {shape.head_dim}")
        self._hidden = len(self._packed[0].norms[0])
        self._cache_shape = (shape.kv_heads, shape.head_dim)
        self._model = DecoderModel(
            ctypes.addressof(self._layers),
            shape.heads,
            shape.norm_eps,
            collective.rank == 0,
            cosine.data_ptr(),
            sine.data_ptr(),
            cosine.shape[1],
        )
        self._layers_done = ctypes.c_int64(0)

    @property
    def layers_done(self) -> int:
        """Layers computed since the start."""
        return self._layers_done.value

    def run(
        self,
        layers: range,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        needed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[tokens, hidden] -> the same, or [needed, hidden]; in the same memory where possible.

        Raises IndexError for positions beyond the rotary table and layers out of range, and
        ValueError for shapes and dtypes that differ from those of the step.
        """
        if not isinstance(attention, KernelAttention):
            raise TypeError(f"attention of another device: {attention!r}")
        hidden, positions = hidden.contiguous(), positions.contiguous()
        metadata = attention.metadata
        tokens = metadata.num_tokens
        check_floats("hidden", hidden, (tokens, self._hidden))
        if positions.shape != (tokens,) or positions.dtype != torch.int64:
            raise ValueError(
                f"positions: expected int64 [{tokens}], got {positions.dtype} "
                f"{list(positions.shape)}"
            )
        self._check_cache(layers, attention)
        least, most = positions.aminmax()
        if least < 0 or most >= len(self._angles[0]):
            raise IndexError(f"positions {int(least)} to {int(most)} of {len(self._angles[0])}")
        metadata.positions = positions.data_ptr()
        first, last = 2 * layers.start, 2 * layers.stop  # attention and MLP of each layer
        if needed is None:
            return self._run(range(first, last), hidden, metadata, attention)
        hidden = self._run(range(first, last - 1), hidden, metadata, attention)[needed]
        if len(needed) == 0:
            self._layers_done.value += 1
            return hidden
        metadata = AttentionMetadata(num_tokens=len(needed))
        return self._run(range(last - 1, last), hidden, metadata, attention)

    def _run(
        self,
        sublayers: range,
        hidden: torch.Tensor,
        metadata: AttentionMetadata,
        attention: KernelAttention,
    ) -> torch.Tensor:
        at_once = len(sublayers) if self._collective.size == 1 else 1
        for first in sublayers[::at_once]:
            self._kernels.run_sublayers(
                ctypes.byref(self._model),
                ctypes.byref(attention.cache),
                ctypes.byref(metadata),
                first,
                first + at_once,
                hidden.data_ptr(),
                ctypes.byref(self._layers_done),
            )
            hidden = self._collective.all_reduce(hidden)
        return hidden

    def _check_cache(self, layers: range, attention: KernelAttention) -> None:
        attention.check_layers(layers)
        if layers.stop > len(self._packed):
            raise IndexError(f"layers {layers} of {len(self._packed)}")
        found = (attention.cache.kv_heads, attention.cache.head_dim)
        if found != self._cache_shape:
            raise ValueError(f"KV cache of (kv_heads, head_dim) {found}, need {self._cache_shape}")


class _PackedLayer:
    """One layer, and the memory that holds it."""

    def __init__(
        self, kernels: Kernels, weights: LayerWeights, shape: DecoderShape, bits: int
    ) -> None:
        _check_shapes(weights, shape)
        self.norms = (weights.attention_norm.float(), weights.mlp_norm.float())
        self._weights = (
            PackedWeight(kernels, weights.qkv, weights.qkv_bias, bits=bits),
            PackedWeight(kernels, weights.out, bits=bits),
            PackedWeight(kernels, weights.gate_up, bits=bits, epilogue="silu_gate"),
            PackedWeight(kernels, weights.down, bits=bits),
        )
        norms = (norm.data_ptr() for norm in self.norms)
        self.struct = DecoderLayer(*norms, *(weight.struct for weight in self._weights))


def _check_shapes(weights: LayerWeights, shape: DecoderShape) -> None:
    hidden, ffn = weights.down.shape
    attended = shape.heads * shape.head_dim
    qkv = attended + 2 * shape.kv_heads * shape.head_dim
    check_floats("attention_norm", weights.attention_norm.float(), (hidden,))
    check_matrix("qkv", weights.qkv, (qkv, hidden))
    check_floats("qkv_bias", weights.qkv_bias, (qkv,))
    check_matrix("out", weights.out, (hidden, attended))
    check_floats("mlp_norm", weights.mlp_norm.float(), (hidden,))
    check_matrix("gate_up", weights.gate_up, (2 * ffn, hidden))
