"""Paged attention with PyTorch's scaled_dot_product_attention over gathered contexts.

The cache of a layer is one tensor [blocks * block_size + 2, 2 * kv_heads, head_dim], keys before
values. Of the two slots behind the blocks, padding reads the first, which is never written, and
unused rows of a decode step write to the second.

    decode (one token)       all sequences together, padded to a power of two
    prefill (several)        one sequence after the other
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from glm4v.device.base import Attention, AttentionSegment
from glm4v.device.cuda.decode_inputs import DecodeInputs, room_for


@dataclass(frozen=True, slots=True)
class _Decodes:
    """The single tokens of a step."""

    tokens: torch.Tensor | None  # [n] indices in the step; None for all of them, in their order
    slots: torch.Tensor  # [n * room]
    mask: torch.Tensor  # [n, 1, 1, room]


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Several tokens of one sequence."""

    tokens: slice  # of the step
    slots: torch.Tensor  # [context], this step's tokens last


class CudaAttention(Attention):
    """The KV cache and the attention of one rank."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._cache: list[torch.Tensor] = []
        self._block_size = 0
        self._null_slot = 0
        self._write_slots = torch.empty(0, dtype=torch.int64)
        self._decodes: _Decodes | None = None
        self._prefills: list[_Prefill] = []
        self._segments: Sequence[AttentionSegment] = ()

    def allocate(
        self, *, layers: int, blocks: int, block_size: int, kv_heads: int, head_dim: int
    ) -> None:
        """Reserve the cache; block b has the slots [b * block_size, (b + 1) * block_size)."""
        self._block_size = block_size
        self._null_slot = blocks * block_size
        shape = (self._null_slot + 2, 2 * kv_heads, head_dim)
        self._cache = [
            torch.zeros(shape, dtype=self._dtype, device=self._device) for _ in range(layers)
        ]

    def copy_tokens(self, source: int, target: int, count: int) -> None:
        """Copy the first tokens of a block to another one, in every layer."""
        start, to = source * self._block_size, target * self._block_size
        for cache in self._cache:
            cache[to : to + count] = cache[start : start + count]

    def prepare(self, segments: Sequence[AttentionSegment]) -> None:
        """Keep the segments; a graph takes them as they are (`decode_segments`)."""
        self._segments = segments
        self._decodes = None
        self._prefills = []

    @property
    def decode_segments(self) -> Sequence[AttentionSegment]:
        """The sequences of the step if each has one token; else none."""
        are_decodes = all(segment.query_len == 1 for segment in self._segments)
        return self._segments if are_decodes else ()

    def decode_inputs(self, count: int, room: int) -> DecodeInputs:
        """Inputs for `count` sequences over this cache."""
        return DecodeInputs(
            count,
            room,
            block_size=self._block_size,
            scratch_slot=self._null_slot + 1,
            device=self._device,
        )

    def use(self, inputs: DecodeInputs) -> None:
        """Compute what all layers of a decode step need, on the device alone."""
        slots, mask = inputs.context(self._null_slot, self._dtype)
        self._write_slots = inputs.write_slots
        self._decodes = _Decodes(None, slots, mask)

    def compute_slots(self) -> None:
        """Compute what all layers of the prepared step need, whatever its segments are."""
        ends = np.cumsum([segment.query_len for segment in self._segments]).tolist()
        firsts = [0, *ends[:-1]]
        single = [at for at, segment in enumerate(self._segments) if segment.query_len == 1]
        write = []
        self._prefills = []
        for segment, first, end in zip(self._segments, firsts, ends, strict=True):
            slots = self._context_slots(segment)
            write.append(slots[segment.context_len :])
            if segment.query_len > 1:
                self._prefills.append(_Prefill(slice(first, end), slots.to(self._device)))
        self._write_slots = torch.cat(write).to(self._device)
        self._decodes = None
        if single:
            decodes = [self._segments[at] for at in single]
            inputs = self.decode_inputs(len(decodes), room_for(decodes))
            inputs.fill(decodes)
            tokens = torch.tensor([firsts[at] for at in single], device=self._device)
            slots, mask = inputs.context(self._null_slot, self._dtype)
            self._decodes = _Decodes(tokens, slots, mask)

    def forward(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Write keys and values, then attend: query [tokens, heads, head_dim] -> the same."""
        if self._decodes is None and not self._prefills:
            self.compute_slots()
        cache = self._cache[layer]
        cache.index_copy_(0, self._write_slots, torch.cat((key, value), dim=1))
        decodes = self._decodes
        if decodes is not None and decodes.tokens is None:
            return _attend_single(cache, decodes, query)
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        if decodes is not None and decodes.tokens is not None:
            output[decodes.tokens] = _attend_single(cache, decodes, query[decodes.tokens])
        for part in self._prefills:
            output[part.tokens] = _attend_prefill(cache, part, query[part.tokens])
        return output

    def _context_slots(self, segment: AttentionSegment) -> torch.Tensor:
        """Slots of all tokens of a sequence, this step's included, on the host."""
        context = segment.context_len + segment.query_len
        used = -(-context // self._block_size)
        assert segment.query_len > 0
        assert used <= len(segment.block_table), "the block table does not cover its tokens"
        blocks = np.array(segment.block_table[:used], dtype=np.int64)
        slots = blocks[:, None] * self._block_size + np.arange(self._block_size)
        return torch.from_numpy(slots.reshape(-1)[:context])


def _attend_single(cache: torch.Tensor, group: _Decodes, query: torch.Tensor) -> torch.Tensor:
    """query [n, heads, head_dim] -> the same."""
    count, heads, head_dim = query.shape
    context = cache.index_select(0, group.slots)  # [n * room, 2 * kv_heads, head_dim]
    context = context.view(count, -1, *context.shape[1:]).transpose(1, 2)
    key, value = context.chunk(2, dim=1)  # [n, kv_heads, room, head_dim]
    # The query heads of one kv head take the place of tokens: they attend to the same context.
    grouped = query.reshape(count, key.shape[1], -1, head_dim)
    attended = functional.scaled_dot_product_attention(grouped, key, value, attn_mask=group.mask)
    return attended.reshape(count, heads, head_dim)


def _attend_prefill(cache: torch.Tensor, part: _Prefill, query: torch.Tensor) -> torch.Tensor:
    """query [tokens, heads, head_dim] -> the same; the last token attends to the whole context."""
    context = cache.index_select(0, part.slots).transpose(0, 1)
    # A copy for each query head: not every kernel that knows this mask knows groups of heads.
    group = 2 * query.shape[1] // len(context)
    key, value = context.repeat_interleave(group, dim=0)[None].chunk(2, dim=1)
    attended = functional.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        key,  # [1, heads, context, head_dim]
        value,
        attn_mask=causal_lower_right(len(query), len(part.slots)),
    )
    return attended[0].transpose(0, 1)
