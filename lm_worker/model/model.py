"""The language model of GLM-4V: 40 decoder layers over word and image embeddings."""

import torch

from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.weights import Weights
from glm4v.device import Attention, Decoder, DecoderShape, Device
from glm4v.device.collectives import Collective
from lm_worker.model.decoder import TorchDecoder
from lm_worker.model.layers import (
    Shard,
    VocabParallelEmbedding,
    VocabParallelHead,
    layer_weights,
    rotary_angles,
)


def kv_bytes_per_token(spec: ModelSpec, shard: Shard, device: Device) -> int:
    """Bytes that one token takes in a rank's KV cache, over all layers."""
    start, end = shard.kv_heads(spec)
    return device.kv_bytes_per_token(
        layers=spec.layers, kv_heads=end - start, head_dim=spec.head_dim
    )


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
        spec.check_ranks(shard.size)
        vocabulary = shard.span(spec.vocab_size)
        # The largest matrix first: while a device changes its layout there are two copies of it.
        self._score = VocabParallelHead(
            weights, "transformer.output_layer.weight", vocabulary, device, collective
        )
        self.embed = VocabParallelEmbedding(
            weights, "transformer.embedding.word_embeddings.weight", vocabulary, device, collective
        )
        self._layers = range(spec.layers)
        self.decoder = _decoder(spec, weights, device, collective, shard)
        norm = weights.read("transformer.encoder.final_layernorm.weight")
        self.norm = device.rms_norm(norm, spec.norm_eps)

    @property
    def layers_done(self) -> int:
        """Layers computed since the start."""
        return self.decoder.layers_done

    def forward(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        needed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """All layers: [tokens, hidden] from `embed`, with image embeddings inserted, -> the same.

        positions [tokens]. `attention` is prepared for these tokens and takes their keys and
        values into its cache. With indices of tokens, `needed` [count], -> [count, hidden].
        """
        return self.decoder.run(self._layers, hidden, positions, attention, needed)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the next token: [tokens, hidden] from `forward` -> [tokens, vocabulary]."""
        return self._score(self.norm(hidden))


def _decoder(
    spec: ModelSpec, weights: Weights, device: Device, collective: Collective, shard: Shard
) -> Decoder:
    first, last = shard.heads(spec)
    kv_first, kv_last = shard.kv_heads(spec)
    cosine, sine = rotary_angles(spec, device.dtype, device.torch_device)
    shape = DecoderShape(
        heads=last - first,
        kv_heads=kv_last - kv_first,
        head_dim=spec.head_dim,
        norm_eps=spec.norm_eps,
        cosine=cosine,
        sine=sine,
    )
    layers = (layer_weights(layer, spec, weights, shard) for layer in range(spec.layers))
    own = device.decoder(layers, shape, collective)
    if own is not None:
        return own
    return device.capture(TorchDecoder(layers, shape, device, collective))
