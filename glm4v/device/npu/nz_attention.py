"""Paged attention of the 300I Duo (310P): ATB's operators over a cache in NZ format.

A layer's cache is two tensors [blocks + 1, kv_heads * 128 / 16, 128, 16], keys and values: tiles of
16 values, which the format FRACTAL_NZ keeps together.
"""

from collections.abc import Sequence

import torch
import torch_npu

from glm4v.device.base import AttentionSegment
from glm4v.device.npu.attention import MASK_SIZE, NpuAttention
from glm4v.device.npu.chip import BLOCK_SIZE, HEAD_DIM
from glm4v.device.npu.linear import FRACTAL_NZ

_TILE = 16
_HIDDEN = -10000.0  # added to what a query does not see; float16 ends at -65504
_COMPRESSED_MASK = 5  # ATB's MASK_TYPE_NORM_COMPRESS: one 2048 x 2048 mask for all lengths


class NzAttention(NpuAttention):
    """One operator for decode, another for steps with prefills."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(dtype, device)
        mask = torch.full((MASK_SIZE, MASK_SIZE), _HIDDEN, dtype=dtype).triu(1)
        self._mask = mask.to(device)
        self._context_lens = torch.empty(0, dtype=torch.int32, device=device)

    def prepare(self, segments: Sequence[AttentionSegment]) -> None:
        """As for all NPUs; here the lengths of contexts are read on the device."""
        super().prepare(segments)
        self._context_lens = torch.tensor(
            self.step.context_lens, dtype=torch.int32, device=self._device
        )

    def _cache(self, blocks: int, kv_heads: int) -> torch.Tensor:
        shape = (blocks, kv_heads * HEAD_DIM // _TILE, BLOCK_SIZE, _TILE)
        cache: torch.Tensor = torch_npu.empty_with_format(
            shape, dtype=self._dtype, device=self._device, acl_format=FRACTAL_NZ
        )
        return cache.zero_()

    def _rows(self, cache: torch.Tensor) -> torch.Tensor:
        # PyTorch's operators take a tensor in NZ for one in ND, or make it one: they get a tensor
        # in ND that has the same memory. Tiles of 16 values are as wide as the format's own, so
        # both formats put every value at the same place.
        rows = torch.empty(cache.shape, dtype=self._dtype, device=self._device)
        torch_npu.npu_change_data_ptr(rows, cache, 0)
        return rows

    def _write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        torch_npu._npu_reshape_and_cache(
            key=key,
            value=value,
            key_cache=self._keys[layer],
            value_cache=self._values[layer],
            slot_indices=self.step.slots,
        )

    def _attend(self, layer: int, query: torch.Tensor, kv_heads: int) -> torch.Tensor:
        step, output = self.step, torch.empty_like(query)
        common = {
            "query": query,
            "key_cache": self._keys[layer],
            "value_cache": self._values[layer],
            "block_table": step.block_table,
            "context_lens": self._context_lens,
            "num_heads": query.shape[1],
            "num_kv_heads": kv_heads,
            "scale_value": self._scale,
            "out": output,
        }
        if step.is_decode:
            torch_npu._npu_paged_attention(**common)
        else:
            torch_npu._npu_paged_attention_splitfuse_v2(
                **common,
                mask=self._mask,
                seq_len=torch.tensor(step.query_lens, dtype=torch.int32),  # read on the host
                mask_type=_COMPRESSED_MASK,
            )
        return output
