"""The seam between the models and what they run on: a device, and attention in its own layout."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from glm4v.device.collectives import Collective
from glm4v.device.linear import Linear, PlainLinear, Then


@dataclass(frozen=True, slots=True)
class AttentionSegment:
    """Rows of one sequence in a step; each attends to all rows of it up to itself."""

    rows: int  # in this step
    context_len: int  # rows in the cache already
    block_table: tuple[int, ...]


class Attention(ABC):
    """Attention of one rank: owns the paged key/value cache in the layout its kernels like best."""

    @abstractmethod
    def allocate(
        self, *, layers: int, blocks: int, block_size: int, kv_heads: int, head_dim: int
    ) -> None:
        """Reserve the cache: `blocks` blocks of `block_size` rows, for every layer."""

    @abstractmethod
    def prepare(self, segments: Sequence[AttentionSegment]) -> None:
        """Compute once what all layers of a step need: slots, masks, lengths."""

    @abstractmethod
    def paged(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Write the step's keys and values to the cache, then attend.

        query [rows, heads, head_dim], key and value [rows, kv_heads, head_dim]
        -> [rows, heads, head_dim]; rows of all segments follow one another.
        Scale 1/sqrt(head_dim).
        """


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One rank's part of a decoder layer; products are [out, in]."""

    attention_norm: torch.Tensor  # [hidden]
    qkv: torch.Tensor  # [(heads + 2 * kv_heads) * head_dim, hidden]: queries, keys, values
    qkv_bias: torch.Tensor
    out: torch.Tensor  # [hidden, heads * head_dim]
    mlp_norm: torch.Tensor  # [hidden]
    gate_up: torch.Tensor  # [2 * ffn, hidden]: gate, up
    down: torch.Tensor  # [hidden, ffn]


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """What a rank's layers have in common."""

    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    cosine: torch.Tensor  # [positions, rotated pairs]
    sine: torch.Tensor


class Decoder(ABC):
    """One rank's part of the decoder's layers."""

    @property
    @abstractmethod
    def layers_done(self) -> int:
        """Layers computed since the start: progress within a step, for leases."""

    @abstractmethod
    def run(
        self, layers: range, hidden: torch.Tensor, positions: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """Some neighbouring layers: [rows, hidden] -> the same; may reuse the memory of `hidden`.

        positions [rows]. `attention` is this device's, and prepared for these rows.
        """


class Device(ABC):
    """One accelerator, or the CPU."""

    name: str  # "cpu", "cuda:0", "npu:0"
    torch_device: torch.device
    dtype: torch.dtype  # of activations and cache, and of weights unless `linear` packs them
    arithmetic: str  # for people: what is stored and computed how
    weight_bytes: int  # a stored weight takes
    collective_backend: str  # "gloo", "nccl", "hccl"

    @abstractmethod
    def free_memory_bytes(self) -> int:
        """Memory that is free for weights and cache."""

    def linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, then: Then = "nothing"
    ) -> Linear:
        """The product with `weight` [out, in] in `dtype`, and what follows it.

        Takes the weight over. With "silu_gate" its rows are those of the gate, then as many more.
        """
        return PlainLinear(weight, bias, then=then)

    def decoder(
        self, layers: Iterable[LayerWeights], shape: DecoderShape, collective: Collective
    ) -> Decoder | None:
        """The decoder's layers by means of this device; None: those of torch, one by one."""
        return None

    def table(self, weight: torch.Tensor) -> torch.Tensor:
        """Rows to be looked up, in the dtype they are stored in; takes `weight` over."""
        return weight

    @abstractmethod
    def paged_attention(self) -> Attention:
        """A new attention with a cache of its own."""

    @abstractmethod
    def full_attention(self, heads: torch.Tensor) -> torch.Tensor:
        """Attention of every row to every row, for the vision tower.

        [batch, rows, 3, heads, head_dim], queries, keys and values -> [batch, rows, heads,
        head_dim]. Scale 1/sqrt(head_dim).
        """
