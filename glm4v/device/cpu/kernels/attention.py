"""Paged attention that reads the cache where it lies."""

import ctypes
import itertools
from collections.abc import Sequence

import numpy as np
import torch

from glm4v.device.base import Attention, AttentionSegment
from glm4v.device.cpu.kernels.library import Cache, Kernels, Segment, Step, check_floats


class KernelAttention(Attention):
    """The cache of one rank in the layout of source/attention.h."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._layers = 0
        self._blocks = 0
        self._block_size = 0
        self.cache = Cache()
        self.step = Step()

    def allocate(
        self, *, layers: int, blocks: int, block_size: int, kv_heads: int, head_dim: int
    ) -> None:
        """Reserve the cache; the rows of block b are [b * block_size, (b + 1) * block_size)."""
        lanes, panel = self._kernels.lanes, self._kernels.panel
        slots = -(-blocks * block_size // lanes) * lanes
        width = -(-head_dim // panel) * panel
        heads = layers * kv_heads * slots
        # Not filled: nothing is read that was not written, and pages come when they are used.
        self._keys = self._kernels.memory(heads * head_dim * 4)
        self._values = self._kernels.memory(heads * width * 4)
        self._layers, self._blocks, self._block_size = layers, blocks, block_size
        self.cache = Cache(
            self._keys.data_ptr(), self._values.data_ptr(), slots, kv_heads, head_dim, width
        )

    def prepare(self, segments: Sequence[AttentionSegment]) -> None:
        """Say where the rows of the step's sequences lie.

        Raises IndexError for rows that their block table does not cover, and for blocks that the
        cache does not have.
        """
        self.step = Step()  # nothing may be computed where one of these is refused
        array = (Segment * len(segments))()
        first_block = 0
        for segment, to in zip(segments, array, strict=True):
            capacity = len(segment.block_table) * self._block_size
            if segment.rows < 1 or not 0 <= segment.context_len <= capacity - segment.rows:
                raise IndexError(
                    f"rows {segment.context_len} to "
                    f"{segment.context_len + segment.rows} of {capacity}"
                )
            to.rows, to.context_len, to.first_block = segment.rows, segment.context_len, first_block
            first_block += len(segment.block_table)
        tables = itertools.chain.from_iterable(segment.block_table for segment in segments)
        numbers = np.fromiter(tables, dtype=np.int64, count=first_block)
        if first_block and not 0 <= numbers.min() <= numbers.max() < self._blocks:
            raise IndexError(f"blocks {numbers.min()} to {numbers.max()} of {self._blocks}")
        self._held = (array, numbers)
        self.step = Step(
            rows=sum(segment.rows for segment in segments),
            block_size=self._block_size,
            segment_count=len(segments),
            segments=ctypes.addressof(array),
            blocks=numbers.ctypes.data,
        )

    def check_layers(self, layers: range) -> None:
        """Raise IndexError for layers that the cache does not have."""
        if not 0 <= layers.start <= layers.stop <= self._layers or layers.step != 1:
            raise IndexError(f"layers {layers} of {self._layers}")

    def paged(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Write, then attend: query [rows, heads, head_dim] -> the same.

        Raises ValueError for shapes that are not those of step and cache.
        """
        self.check_layers(range(layer, layer + 1))
        rows, kv_heads, head_dim = self.step.rows, self.cache.kv_heads, self.cache.head_dim
        if query.shape[1] % kv_heads:
            raise ValueError(f"{query.shape[1]} heads of queries for {kv_heads} of keys")
        check_floats("queries", query, (rows, query.shape[1], head_dim))
        for name, tensor in (("keys", key), ("values", value)):
            check_floats(name, tensor, (rows, kv_heads, head_dim))
        heads = torch.cat((query, key, value), dim=1)
        attended = torch.empty(query.shape)
        self._kernels.attend(
            ctypes.byref(self.cache),
            layer,
            ctypes.byref(self.step),
            query.shape[1],
            heads.data_ptr(),
            attended.data_ptr(),
        )
        return attended


def attend_all(kernels: Kernels, heads: torch.Tensor) -> torch.Tensor:
    """Attention of every row to every row.

    [batch, rows, 3, heads, head_dim], queries, keys and values -> [batch, rows, heads, head_dim].
    Raises ValueError for other shapes and dtypes.
    """
    heads = heads.contiguous()
    batch, rows, _, count, head_dim = heads.shape
    check_floats("heads", heads, (batch, rows, 3, count, head_dim))
    attended = torch.empty(batch, rows, count, head_dim)
    for one, to in zip(heads, attended, strict=True):
        kernels.attend_all(rows, count, head_dim, one.data_ptr(), to.data_ptr())
    return attended
