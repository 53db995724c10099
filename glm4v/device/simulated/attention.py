"""A KV cache of hashes: attention gives the hash of a token's whole context."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from glm4v.device.base import Attention, AttentionSegment
from glm4v.device.simulated.hashing import COLUMNS, UInt64Array, prefix_hashes, row_hashes, signs


class SimulatedAttention(Attention):
    """One hash for each slot and layer; slots that were never written cannot be read."""

    def __init__(self) -> None:
        self._cache = np.zeros((0, 0), dtype=np.uint64)
        self._is_written = np.zeros((0, 0), dtype=np.bool_)
        self._block_size = 0
        self._segments: list[tuple[npt.NDArray[np.int64], int]] = []  # slots, context_len

    def allocate(
        self, *, layers: int, blocks: int, block_size: int, kv_heads: int, head_dim: int
    ) -> None:
        """Reserve the cache; block b has the slots [b * block_size, (b + 1) * block_size)."""
        self._cache = np.zeros((layers, blocks * block_size), dtype=np.uint64)
        self._is_written = np.zeros((layers, blocks * block_size), dtype=np.bool_)
        self._block_size = block_size

    def copy_tokens(self, source: int, target: int, count: int) -> None:
        """Copy the first tokens of a block to another one, in every layer that is in use.

        Raises RuntimeError for tokens that were never written.
        """
        start, to = source * self._block_size, target * self._block_size
        in_use = self._is_written.any(axis=1)  # a decoder writes the first layer of a call alone
        if not in_use.any() or not self._is_written[in_use, start : start + count].all():
            raise RuntimeError(f"not all of {count} tokens of block {source} were written")
        self._cache[:, to : to + count] = self._cache[:, start : start + count]
        self._is_written[in_use, to : to + count] = True

    def prepare(self, segments: Sequence[AttentionSegment]) -> None:
        """Turn block tables into slots; raises IndexError for tokens outside of them."""
        self._segments = []
        for segment in segments:
            blocks = np.array(segment.block_table, dtype=np.int64)
            slots = (blocks[:, None] * self._block_size + np.arange(self._block_size)).reshape(-1)
            length = segment.context_len + segment.query_len
            if segment.query_len < 1 or length > len(slots):
                raise IndexError(f"tokens {segment.context_len} to {length} of {len(slots)}")
            self._segments.append((slots[:length], segment.context_len))

    def attend(self, layer: int, tokens: UInt64Array) -> UInt64Array:
        """Write the hashed tokens of the step, then give the hash of each one's context.

        Raises RuntimeError when a slot is read that was never written.
        """
        cache, is_written = self._cache[layer], self._is_written[layer]
        first = 0
        for slots, context_len in self._segments:
            own = slots[context_len:]
            cache[own] = tokens[first : first + len(own)]
            is_written[own] = True
            first += len(own)
        contexts = []
        for slots, context_len in self._segments:
            if not is_written[slots].all():
                raise RuntimeError(f"slots {slots[~is_written[slots]]} were never written")
            contexts.append(prefix_hashes(cache[slots])[context_len:])
        return np.concatenate(contexts)

    def forward(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """query [tokens, heads, head_dim] -> the same; keys and values are hashed together."""
        tokens = row_hashes(key.flatten(1)) ^ row_hashes(value.flatten(1))
        output = torch.zeros_like(query).flatten(1)
        columns = min(COLUMNS, output.shape[1])
        output[:, :columns] = signs(self.attend(layer, tokens), columns)
        return output.view(query.shape)
