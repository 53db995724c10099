"""Paged attention in plain torch.

The cache of a layer is one tensor [2 * kv_heads, blocks * block_size + 1, head_dim], keys before
values. Its last row is never written and stays zero: whatever is padded reads that row, so that
nothing a finished sequence left in a block can reach another one, not even as NaN times zero.

Rows of a step are served in two ways:

    one row (decode)     sequences of similar length together, padded to the longest, masked
    several (prefill)    one sequence at a time, in blocks of rows, each against the rows it sees
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from glm4v.device.base import Attention, AttentionSegment

_ROW_BLOCK = 128  # prefill rows attended at once; bounds masks and wasted products
_SHORT = 256  # contexts up to this length are padded to one another

_Slots = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Decodes:
    """Single rows of sequences of similar length."""

    rows: torch.Tensor  # [n] of the step
    slots: torch.Tensor  # [n * longest] cache rows
    mask: torch.Tensor  # [n, 1, 1, longest] added to the scores


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Several rows of one sequence."""

    first: int  # row of the step
    rows: int
    slots: torch.Tensor  # [context] cache rows; its last `rows` are this step's


class CpuAttention(Attention):
    """The cache and the attention of one rank."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._cache: list[torch.Tensor] = []
        self._block_size = 0
        self._null_slot = 0
        self._write_slots = torch.empty(0, dtype=torch.int64)
        self._decodes: list[_Decodes] = []
        self._prefills: list[_Prefill] = []
        self._mask = _causal_mask(_SHORT, dtype)

    def allocate(
        self, *, layers: int, blocks: int, block_size: int, kv_heads: int, head_dim: int
    ) -> None:
        """Reserve the cache; the rows of block b are [b * block_size, (b + 1) * block_size)."""
        self._block_size = block_size
        self._null_slot = blocks * block_size
        shape = (2 * kv_heads, blocks * block_size + 1, head_dim)
        self._cache = [torch.zeros(shape, dtype=self._dtype) for _ in range(layers)]

    def prepare(self, segments: Sequence[AttentionSegment]) -> None:
        """Turn block tables into cache rows, and sort the segments by how they are served."""
        write: list[_Slots] = []
        single: dict[int, list[tuple[int, _Slots]]] = {}
        self._prefills = []
        row = 0
        for segment in segments:
            slots = self._context_slots(segment)
            write.append(slots[segment.context_len :])
            if segment.rows == 1:
                # By powers of two: padding at most doubles the work, and groups stay few.
                size = (max(_SHORT, len(slots)) - 1).bit_length()
                single.setdefault(size, []).append((row, slots))
            else:
                self._prefills.append(_Prefill(row, segment.rows, torch.from_numpy(slots)))
                self._extend_mask(len(slots))
            row += segment.rows
        self._write_slots = torch.from_numpy(np.concatenate(write))
        self._decodes = [self._group(members) for members in single.values()]

    def paged(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Write, then attend: query [rows, heads, head_dim] -> the same."""
        cache = self._cache[layer]
        kv_heads = key.shape[1]
        cache[:kv_heads].index_copy_(1, self._write_slots, key.transpose(0, 1))
        cache[kv_heads:].index_copy_(1, self._write_slots, value.transpose(0, 1))
        if len(self._decodes) == 1 and not self._prefills:  # all rows, in their order
            return _attend_single(cache, self._decodes[0], query)
        output = torch.empty(query.shape, dtype=query.dtype)
        for group in self._decodes:
            output[group.rows] = _attend_single(cache, group, query[group.rows])
        for part in self._prefills:
            rows = slice(part.first, part.first + part.rows)
            self._attend_prefill(cache, part, query[rows], output[rows])
        return output

    def _context_slots(self, segment: AttentionSegment) -> _Slots:
        """Cache rows of all rows of a sequence, this step's included."""
        context = segment.context_len + segment.rows
        used = -(-context // self._block_size)
        assert segment.rows > 0
        assert used <= len(segment.block_table), "the block table does not cover its rows"
        blocks = np.array(segment.block_table[:used], dtype=np.int64)
        slots: _Slots = blocks[:, None] * self._block_size + np.arange(self._block_size)
        return slots.reshape(-1)[:context]

    def _group(self, members: Sequence[tuple[int, _Slots]]) -> _Decodes:
        longest = max(len(slots) for _, slots in members)
        padded = np.full((len(members), longest), self._null_slot, dtype=np.int64)
        for line, (_, slots) in zip(padded, members, strict=True):
            line[: len(slots)] = slots
        mask = torch.zeros(padded.shape, dtype=self._dtype)
        mask[torch.from_numpy(padded == self._null_slot)] = -torch.inf
        return _Decodes(
            rows=torch.tensor([row for row, _ in members]),
            slots=torch.from_numpy(padded.reshape(-1)),
            mask=mask[:, None, None, :],
        )

    def _extend_mask(self, context: int) -> None:
        width = self._mask.shape[1] - _ROW_BLOCK
        if context > width:
            self._mask = _causal_mask(max(context, 2 * width), self._dtype)

    def _attend_prefill(
        self, cache: torch.Tensor, part: _Prefill, query: torch.Tensor, output: torch.Tensor
    ) -> None:
        """Fill `output` [rows, heads, head_dim]."""
        rows, heads, head_dim = query.shape
        context = len(part.slots)
        key, value = cache.index_select(1, part.slots).chunk(2)  # [kv_heads, context, head_dim]
        kv_heads = key.shape[0]
        shape = (kv_heads, heads // kv_heads, context, head_dim)
        key = key[:, None].expand(shape)
        value = value[:, None].expand(shape)
        # [kv_heads, group, rows, head_dim]
        grouped = query.reshape(rows, *shape[:2], head_dim).permute(1, 2, 0, 3)
        for first in range(0, rows, _ROW_BLOCK):
            last = min(first + _ROW_BLOCK, rows)
            seen = context - rows + last
            attended = functional.scaled_dot_product_attention(
                grouped[:, :, first:last],
                key[:, :, :seen],
                value[:, :, :seen],
                attn_mask=self._mask_of(last - first, seen),
            )
            output[first:last] = attended.permute(2, 0, 1, 3).flatten(1, 2)

    def _mask_of(self, rows: int, seen: int) -> torch.Tensor:
        """[rows, seen]: the last row sees all, the one before it all but the last, and so on."""
        end = self._mask.shape[1] - _ROW_BLOCK + rows
        return self._mask[:rows, end - seen : end]


def _attend_single(cache: torch.Tensor, group: _Decodes, query: torch.Tensor) -> torch.Tensor:
    """query [n, heads, head_dim] -> the same."""
    count, heads, head_dim = query.shape
    context = cache.index_select(1, group.slots)  # [2 * kv_heads, n * longest, head_dim]
    context = context.view(len(context), count, -1, head_dim).transpose(0, 1)
    key, value = context.chunk(2, dim=1)  # [n, kv_heads, longest, head_dim]
    # The query heads of one kv head stand where rows stand: they see the same context.
    grouped = query.reshape(count, key.shape[1], -1, head_dim)  # [n, kv_heads, group, head_dim]
    attended = functional.scaled_dot_product_attention(grouped, key, value, attn_mask=group.mask)
    return attended.reshape(count, heads, head_dim)


def _causal_mask(width: int, dtype: torch.dtype) -> torch.Tensor:
    """[row block, width + row block]: row i sees the columns up to width + i.

    Every mask a prefill needs is a slice of it:

        columns  0 ........ width ... width + i ...
        row i    0 ........ 0 ..... 0 -inf -inf ...
    """
    shape = (_ROW_BLOCK, width + _ROW_BLOCK)
    return torch.full(shape, -torch.inf, dtype=dtype).triu(width + 1)
