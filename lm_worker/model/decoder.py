"""The decoder's layers in plain torch: what every device is compared with.

Source of the arithmetic: modeling_chatglm.py of THUDM/glm-4v-9b.
"""

from collections.abc import Iterable

import torch

from glm4v.device import Attention, Decoder, DecoderShape, Device, LayerWeights
from glm4v.device.collectives import Collective
from lm_worker.model.layers import RmsNorm


class TorchDecoder(Decoder):
    """One rank's part of all layers; the ranks' results are summed twice a layer."""

    def __init__(
        self,
        layers: Iterable[LayerWeights],
        shape: DecoderShape,
        device: Device,
        collective: Collective,
    ) -> None:
        self._layers = [
            _Layer(number, weights, shape, device, collective)
            for number, weights in enumerate(layers)
        ]
        self._shape = shape
        self._done = 0

    @property
    def layers_done(self) -> int:
        """Layers computed since the start."""
        return self._done

    def run(
        self, layers: range, hidden: torch.Tensor, positions: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """[rows, hidden] -> the same."""
        shape = self._shape
        angles = (shape.cosine[positions][:, None], shape.sine[positions][:, None])
        for number in layers:
            hidden = self._layers[number](hidden, angles, attention)
            self._done += 1
        return hidden


def rotate(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> None:
    """Rotate the leading dimensions of `heads` [rows, heads, head_dim] in place.

    Cosines and sines [rows, 1, pairs]. HostLoad are pairs: (a, b) -> (a cos - b sin, b cos + a
    sin).
    """
    turned = heads[..., : 2 * cosine.shape[-1]]
    even, odd = turned[..., 0::2], turned[..., 1::2]
    new_even = even * cosine - odd * sine
    new_odd = odd * cosine + even * sine
    even.copy_(new_even)
    odd.copy_(new_odd)


class _Layer:
    """Attention with grouped keys and values, and a gated MLP, each behind a norm and added to what
    came in.
    """

    def __init__(
        self,
        number: int,
        weights: LayerWeights,
        shape: DecoderShape,
        device: Device,
        collective: Collective,
    ) -> None:
        self._number = number
        self._head_dim = shape.head_dim
        self._counts = [shape.heads, shape.kv_heads, shape.kv_heads]
        self._reduce = collective.all_reduce
        self._attention_norm = RmsNorm(weights.attention_norm, shape.norm_eps)
        self._qkv = device.linear(weights.qkv, weights.qkv_bias)
        self._out = device.linear(weights.out)
        self._mlp_norm = RmsNorm(weights.mlp_norm, shape.norm_eps)
        self._gate_up = device.linear(weights.gate_up, epilogue="silu_gate")
        self._down = device.linear(weights.down)

    def __call__(
        self,
        hidden: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        attention: Attention,
    ) -> torch.Tensor:
        """[rows, hidden] -> the same."""
        attended = self._attend(self._attention_norm(hidden), angles, attention)
        hidden = hidden + self._reduce(self._out(attended))
        gated = self._gate_up(self._mlp_norm(hidden))
        return hidden + self._reduce(self._down(gated))

    def _attend(
        self,
        rows: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        attention: Attention,
    ) -> torch.Tensor:
        """[rows, hidden] -> [rows, heads * head_dim]."""
        heads = self._qkv(rows).view(len(rows), -1, self._head_dim)
        rotate(heads[:, : -self._counts[2]], *angles)  # queries and keys
        query, key, value = torch.split(heads, self._counts, dim=1)
        return attention.forward(self._number, query, key, value).flatten(1)
