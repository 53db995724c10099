"""The decoder's layers, as many in one call as no other rank has to be heard between."""

import ctypes
from collections.abc import Iterable

import torch

from glm4v.device.base import Attention, Decoder, DecoderShape, LayerWeights
from glm4v.device.collectives import Collective
from glm4v.device.kernels.attention import KernelAttention
from glm4v.device.kernels.library import Kernels, Layer, Model
from glm4v.device.kernels.linear import PackedWeight


class KernelDecoder(Decoder):
    """One rank's part of all layers. Rank 0 adds what came in: the sum over ranks has it once."""

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
        self._packed = [_PackedLayer(kernels, weights, bits) for weights in layers]
        self._layers = (Layer * len(self._packed))(*(packed.struct for packed in self._packed))
        self._angles = (shape.cosine.contiguous(), shape.sine.contiguous())
        cosine, sine = self._angles
        self._model = Model(
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
        self, layers: range, hidden: torch.Tensor, positions: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """[rows, hidden] -> the same, in the same memory where it can be.

        Raises IndexError for positions that have no angles.
        """
        assert isinstance(attention, KernelAttention)
        assert hidden.dtype == torch.float32
        hidden = hidden.contiguous()
        step = attention.step
        assert len(hidden) == len(positions) == step.rows
        least, most = positions.aminmax()
        if least < 0 or most >= len(self._angles[0]):
            raise IndexError(f"positions {int(least)} to {int(most)} of {len(self._angles[0])}")
        step.positions = positions.data_ptr()
        halves = range(2 * layers.start, 2 * layers.stop)
        at_once = len(halves) if self._collective.size == 1 else 1
        for half in halves[::at_once]:
            self._kernels.run_halves(
                ctypes.byref(self._model),
                ctypes.byref(attention.cache),
                ctypes.byref(step),
                half,
                half + at_once,
                hidden.data_ptr(),
                ctypes.byref(self._layers_done),
            )
            hidden = self._collective.all_reduce(hidden)
        return hidden


class _PackedLayer:
    """One layer, with the memory it lies in."""

    def __init__(self, kernels: Kernels, weights: LayerWeights, bits: int) -> None:
        self._norms = (weights.attention_norm.float(), weights.mlp_norm.float())
        self._weights = (
            PackedWeight(kernels, weights.qkv, weights.qkv_bias, bits=bits),
            PackedWeight(kernels, weights.out, bits=bits),
            PackedWeight(kernels, weights.gate_up, bits=bits, then="silu_gate"),
            PackedWeight(kernels, weights.down, bits=bits),
        )
        norms = (norm.data_ptr() for norm in self._norms)
        self.struct = Layer(*norms, *(weight.struct for weight in self._weights))
