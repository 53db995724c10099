"""Paged attention that reads the KV cache in place."""

import ctypes
import itertools
from array import array
from collections.abc import Sequence

import torch

from glm4v.device.base import Attention, AttentionSegment
from glm4v.device.cpu.kernels.library import (
    AttentionMetadata,
    Kernels,
    KvCache,
    Segment,
    check_floats,
)
from glm4v.device.cpu.kernels.memory import kernel_memory


class KernelAttention(Attention):
    """The KV cache of one rank in the layout of source/attention.h."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._layers = 0
        self._blocks = 0
        self._block_size = 0
        self.cache = KvCache()
        self.metadata = AttentionMetadata()

    def allocate(
        self, *, layers: int, blocks: int, block_size: int, kv_heads: int, head_dim: int
    ) -> None:
        """Reserve the cache; block b has the slots [b * block_size, (b + 1) * block_size)."""
        lanes = self._kernels.lanes
        slots = -(-blocks * block_size // lanes) * lanes
        value_stride = _value_stride(self._kernels, head_dim)
        vectors = layers * kv_heads * slots
        # Uninitialized: only slots that were written are read, and pages are mapped on first use.
        self._keys = kernel_memory(vectors * head_dim * 4)
        self._values = kernel_memory(vectors * value_stride * 4)
        self._layers, self._blocks, self._block_size = layers, blocks, block_size
        keys, values = self._keys.view(torch.float32), self._values.view(torch.float32)
        self._key_groups = keys.view(layers, kv_heads, slots // lanes, head_dim, lanes)
        self._value_rows = values.view(layers, kv_heads, slots, value_stride)
        self.cache = KvCache(
            self._keys.data_ptr(), self._values.data_ptr(), slots, kv_heads, head_dim, value_stride
        )

    def copy_tokens(self, source: int, target: int, count: int) -> None:
        """Copy the first tokens of a block to another one, in every layer."""
        start, to = source * self._block_size, target * self._block_size
        self._value_rows[:, :, to : to + count] = self._value_rows[:, :, start : start + count]
        keys, lanes = self._key_groups, self._kernels.lanes
        slots, own = torch.arange(start, start + count), torch.arange(to, to + count)
        copied = keys[:, :, slots // lanes, :, slots % lanes]
        keys[:, :, own // lanes, :, own % lanes] = copied

    def prepare(self, segments: Sequence[AttentionSegment]) -> None:
        """Set the sequences and block tables of the next step.

        Raises IndexError for tokens that their block table does not cover, and for blocks outside
        the cache.
        """
        self.metadata = AttentionMetadata()  # an error below must not leave the previous step
        layout = (Segment * len(segments))()
        table_offset = 0
        for segment, to in zip(segments, layout, strict=True):
            capacity = len(segment.block_table) * self._block_size
            if segment.query_len < 1 or not 0 <= segment.context_len <= capacity - (
                segment.query_len
            ):
                raise IndexError(
                    f"tokens {segment.context_len} to "
                    f"{segment.context_len + segment.query_len} of {capacity}"
                )
            to.query_len, to.context_len = segment.query_len, segment.context_len
            to.table_offset = table_offset
            table_offset += len(segment.block_table)
        tables = itertools.chain.from_iterable(segment.block_table for segment in segments)
        blocks = array("q", tables)
        if table_offset and not 0 <= min(blocks) <= max(blocks) < self._blocks:
            raise IndexError(f"blocks {min(blocks)} to {max(blocks)} of {self._blocks}")
        self._memory = (layout, blocks)
        self.metadata = AttentionMetadata(
            num_tokens=sum(segment.query_len for segment in segments),
            block_size=self._block_size,
            num_segments=len(segments),
            segments=ctypes.addressof(layout),
            block_tables=blocks.buffer_info()[0],
        )

    def check_layers(self, layers: range) -> None:
        """Raise IndexError for layers outside the cache."""
        if not 0 <= layers.start <= layers.stop <= self._layers or layers.step != 1:
            raise IndexError(f"layers {layers} of {self._layers}")

    def forward(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Write keys and values, then attend: query [tokens, heads, head_dim] -> the same.

        Raises ValueError for shapes that differ from those of step and cache.
        """
        self.check_layers(range(layer, layer + 1))
        tokens, kv_heads = self.metadata.num_tokens, self.cache.kv_heads
        head_dim = self.cache.head_dim
        if query.shape[1] % kv_heads:
            raise ValueError(f"{query.shape[1]} query heads for {kv_heads} kv heads")
        check_floats("query", query, (tokens, query.shape[1], head_dim))
        for name, tensor in (("key", key), ("value", value)):
            check_floats(name, tensor, (tokens, kv_heads, head_dim))
        qkv = torch.cat((query, key, value), dim=1)
        attended = torch.empty(query.shape)
        self._kernels.attend(
            ctypes.byref(self.cache),
            layer,
            ctypes.byref(self.metadata),
            query.shape[1],
            qkv.data_ptr(),
            attended.data_ptr(),
        )
        return attended


def kv_bytes_per_head(kernels: Kernels, head_dim: int) -> int:
    """Bytes of one token's key and value in one head and layer of the cache."""
    return (head_dim + _value_stride(kernels, head_dim)) * 4


def _value_stride(kernels: Kernels, head_dim: int) -> int:
    panels = -(-head_dim // kernels.nr)
    return panels * kernels.nr


def attend_all(kernels: Kernels, qkv: torch.Tensor) -> torch.Tensor:
    """Attention of every token to every token.

    [batch, tokens, 3, heads, head_dim], queries, keys and values -> [batch, tokens, heads,
    head_dim]. Raises ValueError for other shapes and dtypes.
    """
    qkv = qkv.contiguous()
    batch, tokens, _, heads, head_dim = qkv.shape
    check_floats("qkv", qkv, (batch, tokens, 3, heads, head_dim))
    attended = torch.empty(batch, tokens, heads, head_dim)
    for one, to in zip(qkv, attended, strict=True):
        kernels.attend_all(tokens, heads, head_dim, one.data_ptr(), to.data_ptr())
    return attended
