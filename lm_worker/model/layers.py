"""The layers of the language model, each reading only its own rank's part of its weights.

Sharding, with R ranks: query heads and the MLP are split R ways, the embedding table and the output
head by vocabulary. A rank has the KV heads of its query heads; with more ranks than KV heads,
ranks hold copies.
"""

from dataclasses import dataclass

import torch

from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.weights import Weights
from glm4v.device import Device, LayerWeights
from glm4v.device.collectives import Collective


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of the model a rank computes."""

    rank: int
    size: int

    def span(self, total: int) -> tuple[int, int]:
        """This rank's range [start, end) of `total` things."""
        return total * self.rank // self.size, total * (self.rank + 1) // self.size

    def heads(self, spec: ModelSpec) -> tuple[int, int]:
        """This rank's query heads [start, end)."""
        return self.span(spec.heads)

    def kv_heads(self, spec: ModelSpec) -> tuple[int, int]:
        """This rank's key/value heads [start, end); at least one, shared when there are few."""
        start = spec.kv_heads * self.rank // self.size
        return start, start + max(1, spec.kv_heads // self.size)


def layer_weights(layer: int, spec: ModelSpec, weights: Weights, shard: Shard) -> LayerWeights:
    """A rank's part of one decoder layer.

    A fused weight (query, key and value; gate and up) has one range for each of its sections: a
    contiguous part of the whole would mix them.
    """
    name = f"transformer.encoder.layers.{layer}."
    attention, mlp = name + "self_attention.", name + "mlp."
    dim = spec.head_dim
    first, last = shard.heads(spec)
    kv_first, kv_last = shard.kv_heads(spec)
    keys, values = spec.heads, spec.heads + spec.kv_heads  # where their sections start
    heads = [
        (first * dim, last * dim),
        ((keys + kv_first) * dim, (keys + kv_last) * dim),
        ((values + kv_first) * dim, (values + kv_last) * dim),
    ]
    start, end = shard.span(spec.ffn_size)
    gate_up = [(start, end), (spec.ffn_size + start, spec.ffn_size + end)]
    return LayerWeights(
        attention_norm=weights.read(name + "input_layernorm.weight"),
        qkv=weights.read_matrix(attention + "query_key_value.weight", rows=heads),
        qkv_bias=weights.read(attention + "query_key_value.bias", rows=heads),
        out=weights.read_matrix(attention + "dense.weight", columns=heads[0]),
        mlp_norm=weights.read(name + "post_attention_layernorm.weight"),
        gate_up=weights.read_matrix(mlp + "dense_h_to_4h.weight", rows=gate_up),
        down=weights.read_matrix(mlp + "dense_4h_to_h.weight", columns=(start, end)),
    )


class VocabParallelEmbedding:
    """The embedding table; each rank looks up its own ids, and the ranks' results are summed."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        span: tuple[int, int],
        device: Device,
        collective: Collective,
    ) -> None:
        self._start, self._end = span
        read = weights.read_matrix if device.quantizes_embeddings else weights.read_table
        self._table = device.embedding(read(name, rows=[span]))
        self._dtype = device.dtype
        self._collective = collective

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """[tokens] -> [tokens, hidden]."""
        if self._collective.size == 1:
            return self._table(ids).to(self._dtype)
        foreign = (ids < self._start) | (ids >= self._end)
        own = (ids - self._start).masked_fill(foreign, 0)
        hidden = self._table(own).masked_fill(foreign[:, None], 0)
        return self._collective.all_reduce(hidden.to(self._dtype))


class VocabParallelHead:
    """Logits of the whole vocabulary, gathered from the ranks' shards."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        span: tuple[int, int],
        device: Device,
        collective: Collective,
    ) -> None:
        self._linear = device.linear(weights.read_matrix(name, rows=[span]))
        self._collective = collective

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] -> [tokens, vocabulary]."""
        return self._collective.all_gather(self._linear(hidden), dim=-1)


def rotary_angles(
    spec: ModelSpec, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [positions, pairs] of position / base^(2i / rotary_dim).

    In single precision, rounded to the model's dtype as modeling_chatglm.py does.
    """
    pairs = torch.arange(0, spec.rotary_dim, 2, dtype=torch.float32) / spec.rotary_dim
    positions = torch.arange(spec.context_tokens, dtype=torch.float32)
    angles = torch.outer(positions, 1.0 / spec.rope_base**pairs)
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)
