"""The seam between the models and what they run on: a device, and attention in its own layout."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from glm4v.device.linear import Linear, PlainLinear


@dataclass(frozen=True, slots=True)
class AttentionSegment:
    """Rows of one sequence in a step; each attends to all rows of it up to itself."""

    rows: int  # in this step
    start_row: int  # rows in the cache already
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
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, many_rows: bool = False
    ) -> Linear:
        """The product with `weight` [out, in] in `dtype`; takes the weight over.

        `many_rows` tells that it is never used for few rows, as in the vision tower.
        """
        return PlainLinear(weight, bias)

    def table(self, weight: torch.Tensor) -> torch.Tensor:
        """Rows to be looked up, in the dtype they are stored in; takes `weight` over."""
        return weight

    @abstractmethod
    def paged_attention(self) -> Attention:
        """A new attention with a cache of its own."""

    @abstractmethod
    def full_attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Attention of every row to every row, for the vision tower.

        Each [batch, heads, rows, head_dim] -> the same. Scale 1/sqrt(head_dim).
        """
