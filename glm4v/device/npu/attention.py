"""Paged attention with one fused operator for prefill, decode and both in one step (800I A2).

A layer's cache is two tensors [blocks + 1, 128, kv_heads, 128], keys and values. The last block is
no sequence's: captured steps that are not full write there.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch_npu
from torch.nn import functional

from glm4v.device.base import Attention, AttentionSegment
from glm4v.device.npu.chip import BLOCK_SIZE, HEAD_DIM
from glm4v.device.npu.step import Step, make_step
from glm4v.errors import ConfigurationError

# The operators' own form of a causal mask, whatever the lengths: 1 hides.
MASK_SIZE = 2048
_CAUSAL = 3  # sparse_mode: the last query sees all tokens, the one before one fewer, …


class NpuAttention(Attention):
    """The KV cache of one rank, and the steps over it."""

    step: Step  # of the last `prepare`; a captured step puts its own here

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._scale = 0.0
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._token_rows: list[torch.Tensor] = []  # of all caches
        self.spare_block = 0

    def allocate(
        self, *, layers: int, blocks: int, block_size: int, kv_heads: int, head_dim: int
    ) -> None:
        """Reserve the cache, and a block more; raises ConfigurationError for a wrong block size."""
        if block_size != BLOCK_SIZE:
            raise ConfigurationError(
                f"the NPU's attention takes blocks of {BLOCK_SIZE} tokens, not {block_size}; set "
                f"GLM4V_BLOCK_SIZE={BLOCK_SIZE}"
            )
        self._scale = 1 / math.sqrt(head_dim)
        self.spare_block = blocks
        self._keys = [self._cache(blocks + 1, kv_heads) for _ in range(layers)]
        self._values = [self._cache(blocks + 1, kv_heads) for _ in range(layers)]
        self._token_rows = [self._rows(cache) for cache in (*self._keys, *self._values)]

    def copy_tokens(self, source: int, target: int, count: int) -> None:
        """Copy the first tokens of a block to another one, in every layer."""
        for rows in self._token_rows:
            rows[target, :, :count] = rows[source, :, :count]

    def prepare(self, segments: Sequence[AttentionSegment]) -> None:
        """Lay out slots, block table and lengths for all layers."""
        self.step = make_step(segments, self._device)

    def forward(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Write keys and values, then attend: query [tokens, heads, head_dim] -> the same."""
        self._write(layer, pad_heads(key), pad_heads(value))
        attended = self._attend(layer, pad_heads(query), key.shape[1])
        return attended[..., : query.shape[-1]]

    @abstractmethod
    def _cache(self, blocks: int, kv_heads: int) -> torch.Tensor:
        """One layer's keys or values, zeros."""

    @abstractmethod
    def _rows(self, cache: torch.Tensor) -> torch.Tensor:
        """A cache's memory as [blocks, parts, 128, values]: the values of each token, by parts."""

    @abstractmethod
    def _write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Put [tokens, kv_heads, 128] into the step's slots."""

    @abstractmethod
    def _attend(self, layer: int, query: torch.Tensor, kv_heads: int) -> torch.Tensor:
        """[tokens, heads, 128] -> the same."""


class FusedAttention(NpuAttention):
    """The fused operator of the A2."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(dtype, device)
        self._mask = torch.ones((MASK_SIZE, MASK_SIZE), dtype=torch.int8).triu(1).to(device)

    def _cache(self, blocks: int, kv_heads: int) -> torch.Tensor:
        shape = (blocks, BLOCK_SIZE, kv_heads, HEAD_DIM)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)

    def _rows(self, cache: torch.Tensor) -> torch.Tensor:
        return cache.flatten(2)[:, None]

    def _write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        # The mode has to be written out: the operator's own default is the NZ layout.
        torch_npu.npu_scatter_pa_kv_cache(
            key,
            value,
            self._keys[layer],
            self._values[layer],
            self.step.slots,
            cache_mode="Norm",
        )

    def _attend(self, layer: int, query: torch.Tensor, kv_heads: int) -> torch.Tensor:
        step = self.step
        attended, _ = torch_npu.npu_fused_infer_attention_score(
            query,
            self._keys[layer].flatten(2),
            self._values[layer].flatten(2),
            atten_mask=self._mask,
            block_table=step.block_table,
            block_size=BLOCK_SIZE,
            input_layout="TND",
            actual_seq_lengths=step.query_ends,
            actual_seq_lengths_kv=step.context_lens,
            num_heads=query.shape[1],
            num_key_value_heads=kv_heads,
            scale=self._scale,
            sparse_mode=_CAUSAL,
        )
        output: torch.Tensor = attended
        return output


def pad_heads(heads: torch.Tensor) -> torch.Tensor:
    """[..., head_dim] -> [..., 128], zeros behind; contiguous, as the kernels want it."""
    missing = HEAD_DIM - heads.shape[-1]
    return functional.pad(heads, (0, missing)) if missing else heads.contiguous()
