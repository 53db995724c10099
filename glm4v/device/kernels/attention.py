"""Paged attention that reads the cache where it lies."""

import ctypes
import itertools
from collections.abc import Sequence

import numpy as np
import torch

from glm4v.device.base import Attention, AttentionSegment
from glm4v.device.kernels.library import Cache, Kernels, Step


class KernelAttention(Attention):
    """The cache of one rank in the layout of source/attention.h."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
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
        self._block_size = block_size
        self.cache = Cache(
            self._keys.data_ptr(), self._values.data_ptr(), slots, kv_heads, head_dim, width
        )

    def prepare(self, segments: Sequence[AttentionSegment]) -> None:
        """Say where the rows of the step's sequences lie."""
        counts, first_block = [], 0
        for segment in segments:
            assert segment.rows > 0
            assert segment.start_row + segment.rows <= len(segment.block_table) * self._block_size
            counts.append((segment.rows, segment.start_row, first_block))
            first_block += len(segment.block_table)
        tables = itertools.chain.from_iterable(segment.block_table for segment in segments)
        self._segments = np.array(counts, dtype=np.int64)
        self._blocks = np.fromiter(tables, dtype=np.int64, count=first_block)
        self.step = Step(
            rows=sum(segment.rows for segment in segments),
            block_size=self._block_size,
            segment_count=len(segments),
            segments=self._segments.ctypes.data,
            blocks=self._blocks.ctypes.data,
        )

    def paged(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Write, then attend: query [rows, heads, head_dim] -> the same."""
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
    """
    heads = heads.contiguous()
    batch, rows, _, count, head_dim = heads.shape
    attended = torch.empty(batch, rows, count, head_dim)
    for one, to in zip(heads, attended, strict=True):
        kernels.attend_all(rows, count, head_dim, one.data_ptr(), to.data_ptr())
    return attended
