"""The decoder layers in fused operators: norms with their sums, rotary positions, the gate.

Source of the arithmetic: modeling_chatglm.py of THUDM/glm-4v-9b.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch_npu

from glm4v.device.base import Attention, Decoder, DecoderShape, Device, LayerWeights
from glm4v.device.collectives import Collective
from glm4v.device.linear import Linear
from glm4v.device.npu.attention import NpuAttention
from glm4v.device.npu.chip import HEAD_DIM
from glm4v.device.npu.graphs import DecodeGraphs
from glm4v.device.npu.lanes import rotary_lanes, rotary_table, spread_matrix, spread_rows


@dataclass(frozen=True, slots=True)
class _Layer:
    """One rank's part of a layer, its heads in lanes."""

    attention_norm: torch.Tensor
    qkv: Linear
    out: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear


class NpuDecoder(Decoder):
    """All layers of one rank; decode steps are captured once and replayed where `graphs` are."""

    def __init__(
        self,
        layers: Iterable[LayerWeights],
        shape: DecoderShape,
        device: Device,
        collective: Collective,
        *,
        graphs: bool,
    ) -> None:
        self._counts = [shape.heads, shape.kv_heads, shape.kv_heads]
        self._head_dim = shape.head_dim
        self._eps = shape.norm_eps
        self._reduce = collective.all_reduce
        lanes = rotary_lanes(shape.head_dim, 2 * shape.cosine.shape[1])
        self._layers = [_load(each, shape, lanes, device) for each in layers]
        self._cosine = rotary_table(shape.cosine, 1.0)
        self._sine = rotary_table(shape.sine, 0.0)
        self._graphs = DecodeGraphs(self._compute) if graphs else None
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
        assert isinstance(attention, NpuAttention)
        angles = (self._cosine[positions][:, None], self._sine[positions][:, None])
        if self._graphs is not None and len(layers) == len(self._layers):
            replayed = self._graphs.run(hidden, *angles, attention)
            if replayed is not None:
                self._done += len(layers)
                return replayed if needed is None else replayed[needed]
        return self._compute_layers(layers, hidden, angles, attention, needed)

    def _compute(
        self,
        hidden: torch.Tensor,
        cosine: torch.Tensor,
        sine: torch.Tensor,
        attention: NpuAttention,
    ) -> torch.Tensor:
        """All layers, for capture."""
        done = self._done
        layers = range(len(self._layers))
        hidden = self._compute_layers(layers, hidden, (cosine, sine), attention)
        self._done = done
        return hidden

    def _compute_layers(
        self,
        layers: range,
        hidden: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        attention: NpuAttention,
        needed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What a branch adds is summed by the norm behind it, and the last one here."""
        first = self._layers[layers.start]
        normed, _ = torch_npu.npu_rms_norm(hidden, first.attention_norm, self._eps)
        added = hidden
        for number in layers:
            layer = self._layers[number]
            if number > layers.start:
                normed, _, hidden = torch_npu.npu_add_rms_norm(
                    added, hidden, layer.attention_norm, self._eps
                )
            attended = self._attend(number, layer.qkv(normed), angles, attention)
            if needed is not None and number == layers[-1]:
                hidden, attended = hidden[needed], attended[needed]
                if len(needed) == 0:  # no operator is given a tensor without rows
                    self._done += 1
                    return hidden
            added = self._reduce(layer.out(attended))
            normed, _, hidden = torch_npu.npu_add_rms_norm(added, hidden, layer.mlp_norm, self._eps)
            added = self._reduce(layer.down(layer.gate_up(normed)))
            self._done += 1
        return hidden + added

    def _attend(
        self,
        number: int,
        qkv: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        attention: NpuAttention,
    ) -> torch.Tensor:
        """[tokens, (heads + 2 * kv_heads) * 128] -> [tokens, heads * head_dim]."""
        heads = qkv.view(len(qkv), -1, HEAD_DIM)
        query, key, value = torch.split(heads, self._counts, dim=1)
        # The operator may write into its inputs, so they are copies of their own.
        query, key = torch_npu.npu_apply_rotary_pos_emb(
            query.contiguous(), key.contiguous(), *angles, layout="TND", rotary_mode="half"
        )
        attended = attention.forward(number, query, key, value)
        return attended[..., : self._head_dim].flatten(1)  # 128 of 128 are no copy


def _load(weights: LayerWeights, shape: DecoderShape, lanes: list[int], device: Device) -> _Layer:
    dim = shape.head_dim
    rotated = (shape.heads + shape.kv_heads) * dim

    def in_lanes(qkv: torch.Tensor) -> torch.Tensor:
        kept = list(range(dim))
        return torch.cat((spread_rows(qkv[:rotated], lanes), spread_rows(qkv[rotated:], kept)))

    return _Layer(
        weights.attention_norm,
        device.linear(spread_matrix(weights.qkv, in_lanes), in_lanes(weights.qkv_bias)),
        device.linear(weights.out),
        weights.mlp_norm,
        device.linear(weights.gate_up, epilogue="silu_gate"),
        device.linear(weights.down),
    )
