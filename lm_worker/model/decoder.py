"""The decoder layers in plain PyTorch: the reference for every device.

Source of the arithmetic: modeling_chatglm.py of THUDM/glm-4v-9b.
"""

from collections.abc import Iterable

import torch

from glm4v.device import Attention, Decoder, DecoderShape, Device, LayerWeights
from glm4v.device.collectives import Collective


class TorchDecoder(Decoder):
    """One rank's shard of all layers; the ranks' results are summed twice per layer."""

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
        self,
        layers: range,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        needed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[tokens, hidden] -> the same, or [needed, hidden]."""
        shape = self._shape
        angles = (shape.cosine[positions][:, None], shape.sine[positions][:, None])
        for number in layers:
            is_last = number == layers[-1]
            hidden = self._layers[number](hidden, angles, attention, needed if is_last else None)
            self._done += 1
        return hidden


def rotate(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> None:
    """Rotate the leading dimensions of `heads` [tokens, heads, head_dim] in place.

    Cosines and sines [tokens, 1, pairs]. Adjacent dimensions form a pair:
    (a, b) -> (a cos - b sin, b cos + a sin).
    """
    rotary = heads[..., : 2 * cosine.shape[-1]]
    even, odd = rotary[..., 0::2], rotary[..., 1::2]
    new_even = even * cosine - odd * sine
    new_odd = odd * cosine + even * sine
    even.copy_(new_even)
    odd.copy_(new_odd)


class _Layer:
    """Grouped-query attention and a gated MLP, each after a norm, with residual connections."""

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
        self._attention_norm = device.rms_norm(weights.attention_norm, shape.norm_eps)
        self._qkv = device.linear(weights.qkv, weights.qkv_bias)
        self._out = device.linear(weights.out)
        self._mlp_norm = device.rms_norm(weights.mlp_norm, shape.norm_eps)
        self._gate_up = device.linear(weights.gate_up, epilogue="silu_gate")
        self._down = device.linear(weights.down)

    def __call__(
        self,
        hidden: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        attention: Attention,
        needed: torch.Tensor | None,
    ) -> torch.Tensor:
        """[tokens, hidden] -> the same, or [needed, hidden]."""
        attended = self._attend(self._attention_norm(hidden), angles, attention)
        if needed is not None:
            hidden, attended = hidden[needed], attended[needed]
            if len(needed) == 0:
                return hidden
        hidden = hidden + self._reduce(self._out(attended))
        gated = self._gate_up(self._mlp_norm(hidden))
        return hidden + self._reduce(self._down(gated))

    def _attend(
        self,
        hidden: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        attention: Attention,
    ) -> torch.Tensor:
        """[tokens, hidden] -> [tokens, heads * head_dim]."""
        heads = self._qkv(hidden).view(len(hidden), -1, self._head_dim)
        rotate(heads[:, : -self._counts[2]], *angles)  # queries and keys
        query, key, value = torch.split(heads, self._counts, dim=1)
        return attention.forward(self._number, query, key, value).flatten(1)
