"""The language model of GLM-4V: 40 decoder layers over word rows and picture rows.

Source of the arithmetic: modeling_chatglm.py of THUDM/glm-4v-9b.
"""

import torch
from torch.nn import functional

from glm4v.device import Attention, Device
from glm4v.device.collectives import Collective
from glm4v.model_spec import ModelSpec
from glm4v.weights import Weights
from lm_worker.layers import (
    ColumnParallel,
    RmsNorm,
    RotaryTable,
    Rotation,
    RowParallel,
    Shard,
    VocabParallelEmbedding,
    VocabParallelHead,
)


def cache_row_bytes(spec: ModelSpec, shard: Shard, dtype: torch.dtype) -> int:
    """Bytes one row takes in a rank's key/value cache, over all layers."""
    start, end = shard.kv_heads(spec)
    return 2 * spec.layers * (end - start) * spec.head_dim * dtype.itemsize


class SelfAttention:
    """Causal attention with grouped keys and values."""

    def __init__(
        self,
        layer: int,
        spec: ModelSpec,
        weights: Weights,
        device: Device,
        collective: Collective,
        shard: Shard,
    ) -> None:
        name = f"transformer.encoder.layers.{layer}.self_attention."
        dim = spec.head_dim
        first, last = shard.heads(spec)
        kv_first, kv_last = shard.kv_heads(spec)
        keys, values = spec.heads, spec.heads + spec.kv_heads  # where their sections start
        sections = [
            (first * dim, last * dim),
            ((keys + kv_first) * dim, (keys + kv_last) * dim),
            ((values + kv_first) * dim, (values + kv_last) * dim),
        ]
        self._layer = layer
        self._counts = [last - first, kv_last - kv_first, kv_last - kv_first]
        self._head_dim = dim
        self._qkv = ColumnParallel(weights, name + "query_key_value", sections, device, bias=True)
        self._out = RowParallel(weights, name + "dense", sections[0], device, collective)

    def __call__(
        self, rows: torch.Tensor, rotation: Rotation, attention: Attention
    ) -> torch.Tensor:
        """[rows, hidden] -> the same."""
        heads = self._qkv(rows).view(len(rows), -1, self._head_dim)
        rotation.apply(heads[:, : -self._counts[2]])  # queries and keys
        query, key, value = torch.split(heads, self._counts, dim=1)
        return self._out(attention.paged(self._layer, query, key, value).flatten(1))


class GatedMlp:
    """down(silu(gate(x)) * up(x)); gate and up are one weight, gate first."""

    def __init__(
        self,
        layer: int,
        spec: ModelSpec,
        weights: Weights,
        device: Device,
        collective: Collective,
        shard: Shard,
    ) -> None:
        name = f"transformer.encoder.layers.{layer}.mlp."
        start, end = shard.span(spec.ffn_size)
        sections = [(start, end), (spec.ffn_size + start, spec.ffn_size + end)]
        self._gate_up = ColumnParallel(
            weights, name + "dense_h_to_4h", sections, device, bias=False
        )
        self._down = RowParallel(weights, name + "dense_4h_to_h", (start, end), device, collective)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> the same."""
        gate, up = self._gate_up(rows).chunk(2, dim=-1)
        return self._down(functional.silu(gate) * up)


class DecoderLayer:
    """Attention and MLP, each behind a norm and added to what came in."""

    def __init__(
        self,
        layer: int,
        spec: ModelSpec,
        weights: Weights,
        device: Device,
        collective: Collective,
        shard: Shard,
    ) -> None:
        name = f"transformer.encoder.layers.{layer}."
        self._attention_norm = RmsNorm(weights, name + "input_layernorm", spec.norm_eps)
        self._attention = SelfAttention(layer, spec, weights, device, collective, shard)
        self._mlp_norm = RmsNorm(weights, name + "post_attention_layernorm", spec.norm_eps)
        self._mlp = GatedMlp(layer, spec, weights, device, collective, shard)

    def __call__(
        self, hidden: torch.Tensor, rotation: Rotation, attention: Attention
    ) -> torch.Tensor:
        """[rows, hidden] -> the same."""
        hidden = hidden + self._attention(self._attention_norm(hidden), rotation, attention)
        return hidden + self._mlp(self._mlp_norm(hidden))


class LanguageModel:
    """One rank's part of the model: `embed`, `forward` through all layers, `logits`."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        device: Device,
        collective: Collective,
        shard: Shard,
    ) -> None:
        shard.check(spec)
        vocabulary = shard.span(spec.vocab_size)
        self.embed = VocabParallelEmbedding(
            weights, "transformer.embedding.word_embeddings.weight", vocabulary, device, collective
        )
        self.layers = [
            DecoderLayer(layer, spec, weights, device, collective, shard)
            for layer in range(spec.layers)
        ]
        self.norm = RmsNorm(weights, "transformer.encoder.final_layernorm", spec.norm_eps)
        self._score = VocabParallelHead(
            weights, "transformer.output_layer.weight", vocabulary, device, collective
        )
        self.rotary = RotaryTable(spec, device.dtype, device.torch_device)
        self.layers_done = 0  # since the start: progress within a step, for leases

    def forward(
        self, hidden: torch.Tensor, positions: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """All layers: [rows, hidden] from `embed`, picture rows put in, -> the same.

        positions [rows]. `attention` has been prepared for these rows and takes their keys and
        values into its cache.
        """
        rotation = self.rotary.at(positions)
        for layer in self.layers:
            hidden = layer(hidden, rotation, attention)
            self.layers_done += 1
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of the next token: [rows, hidden] from `forward` -> [rows, vocabulary]."""
        return self._score(self.norm(hidden))
