"""Paged attention in plain torch.

The cache of a layer is one tensor [2 * kv_heads, blocks * block_size + 1, head_dim], keys before
values. Its last slot is never written and stays zero. Padding reads that slot, so nothing that a
finished sequence left in a block can reach another sequence, not even as NaN times zero.

    decode (one token)       sequences of similar length together, padded to the longest and masked
    prefill (several)        one sequence at a time, in blocks of queries
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from glm4v.device.base import Attention, AttentionSegment

_QUERY_BLOCK = 128  # prefill tokens attended at once; bounds masks and wasted products
_SHORT = 256  # contexts up to this length share one group

_Slots = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Decodes:
    """Single tokens of sequences of similar length."""

    tokens: torch.Tensor  # [n] indices in the step
    slots: torch.Tensor  # [n * longest]
    mask: torch.Tensor  # [n, 1, 1, longest] added to the scores


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Several tokens of one sequence."""

    first: int  # index in the step
    query_len: int
    slots: torch.Tensor  # [context]; the last `query_len` are this step's


class CpuAttention(Attention):
    """The KV cache and the attention of one rank."""

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
        """Reserve the cache; block b has the slots [b * block_size, (b + 1) * block_size)."""
        self._block_size = block_size
        self._null_slot = blocks * block_size
        shape = (2 * kv_heads, blocks * block_size + 1, head_dim)
        self._cache = [torch.zeros(shape, dtype=self._dtype) for _ in range(layers)]

    def copy_tokens(self, source: int, target: int, count: int) -> None:
        """Copy the first tokens of a block to another one, in every layer."""
        start, to = source * self._block_size, target * self._block_size
        for cache in self._cache:
            cache[:, to : to + count] = cache[:, start : start + count]

    def prepare(self, segments: Sequence[AttentionSegment]) -> None:
        """Turn block tables into slots, and group the segments."""
        write: list[_Slots] = []
        single: dict[int, list[tuple[int, _Slots]]] = {}
        self._prefills = []
        first = 0
        for segment in segments:
            slots = self._context_slots(segment)
            write.append(slots[segment.context_len :])
            if segment.query_len == 1:
                # By powers of two: padding at most doubles the work, and groups stay few.
                size = (max(_SHORT, len(slots)) - 1).bit_length()
                single.setdefault(size, []).append((first, slots))
            else:
                self._prefills.append(_Prefill(first, segment.query_len, torch.from_numpy(slots)))
                self._extend_mask(len(slots))
            first += segment.query_len
        self._write_slots = torch.from_numpy(np.concatenate(write))
        self._decodes = [self._group(members) for members in single.values()]

    def forward(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Write keys and values, then attend: query [tokens, heads, head_dim] -> the same."""
        cache = self._cache[layer]
        kv_heads = key.shape[1]
        cache[:kv_heads].index_copy_(1, self._write_slots, key.transpose(0, 1))
        cache[kv_heads:].index_copy_(1, self._write_slots, value.transpose(0, 1))
        if len(self._decodes) == 1 and not self._prefills:  # all tokens, in their order
            return _attend_single(cache, self._decodes[0], query)
        output = torch.empty(query.shape, dtype=query.dtype)
        for group in self._decodes:
            output[group.tokens] = _attend_single(cache, group, query[group.tokens])
        for part in self._prefills:
            own = slice(part.first, part.first + part.query_len)
            self._attend_prefill(cache, part, query[own], output[own])
        return output

    def _context_slots(self, segment: AttentionSegment) -> _Slots:
        """Slots of all tokens of a sequence, this step's included."""
        context = segment.context_len + segment.query_len
        used = -(-context // self._block_size)
        assert segment.query_len > 0
        assert used <= len(segment.block_table), "the block table does not cover its tokens"
        blocks = np.array(segment.block_table[:used], dtype=np.int64)
        slots: _Slots = blocks[:, None] * self._block_size + np.arange(self._block_size)
        return slots.reshape(-1)[:context]

    def _group(self, members: Sequence[tuple[int, _Slots]]) -> _Decodes:
        longest = max(len(slots) for _, slots in members)
        padded = np.full((len(members), longest), self._null_slot, dtype=np.int64)
        for row, (_, slots) in zip(padded, members, strict=True):
            row[: len(slots)] = slots
        mask = torch.zeros(padded.shape, dtype=self._dtype)
        mask[torch.from_numpy(padded == self._null_slot)] = -torch.inf
        return _Decodes(
            tokens=torch.tensor([token for token, _ in members]),
            slots=torch.from_numpy(padded.reshape(-1)),
            mask=mask[:, None, None, :],
        )

    def _extend_mask(self, context: int) -> None:
        width = self._mask.shape[1] - _QUERY_BLOCK
        if context > width:
            self._mask = _causal_mask(max(context, 2 * width), self._dtype)

    def _attend_prefill(
        self, cache: torch.Tensor, part: _Prefill, query: torch.Tensor, output: torch.Tensor
    ) -> None:
        """Fill `output` [tokens, heads, head_dim]."""
        tokens, heads, head_dim = query.shape
        context = len(part.slots)
        key, value = cache.index_select(1, part.slots).chunk(2)  # [kv_heads, context, head_dim]
        kv_heads = key.shape[0]
        shape = (kv_heads, heads // kv_heads, context, head_dim)
        key = key[:, None].expand(shape)
        value = value[:, None].expand(shape)
        # [kv_heads, group, tokens, head_dim]
        grouped = query.reshape(tokens, *shape[:2], head_dim).permute(1, 2, 0, 3)
        for first in range(0, tokens, _QUERY_BLOCK):
            last = min(first + _QUERY_BLOCK, tokens)
            visible = context - tokens + last
            attended = functional.scaled_dot_product_attention(
                grouped[:, :, first:last],
                key[:, :, :visible],
                value[:, :, :visible],
                attn_mask=self._mask_of(last - first, visible),
            )
            output[first:last] = attended.permute(2, 0, 1, 3).flatten(1, 2)

    def _mask_of(self, queries: int, visible: int) -> torch.Tensor:
        """[queries, visible]: the last query attends to all, the one before to one fewer, ..."""
        end = self._mask.shape[1] - _QUERY_BLOCK + queries
        return self._mask[:queries, end - visible : end]


def _attend_single(cache: torch.Tensor, group: _Decodes, query: torch.Tensor) -> torch.Tensor:
    """query [n, heads, head_dim] -> the same."""
    count, heads, head_dim = query.shape
    context = cache.index_select(1, group.slots)  # [2 * kv_heads, n * longest, head_dim]
    context = context.view(len(context), count, -1, head_dim).transpose(0, 1)
    key, value = context.chunk(2, dim=1)  # [n, kv_heads, longest, head_dim]
    # The query heads of one kv head take the place of tokens: they attend to the same context.
    grouped = query.reshape(count, key.shape[1], -1, head_dim)  # [n, kv_heads, group, head_dim]
    attended = functional.scaled_dot_product_attention(grouped, key, value, attn_mask=group.mask)
    return attended.reshape(count, heads, head_dim)


def _causal_mask(width: int, dtype: torch.dtype) -> torch.Tensor:
    """[query block, width + query block]: query i attends to the columns up to width + i.

    Every mask that a prefill needs is a slice of it:

        columns  0 ........ width ... width + i ...
        row i    0 ........ 0 ..... 0 -inf -inf ...
    """
    shape = (_QUERY_BLOCK, width + _QUERY_BLOCK)
    return torch.full(shape, -torch.inf, dtype=dtype).triu(width + 1)
