"""What attention needs to know of a decode step, in one tensor that a graph can read again."""

from collections.abc import Sequence

import numpy as np
import torch

from glm4v.device.base import AttentionSegment

SHORTEST = 256  # tokens of context that every step has room for


def room_for(segments: Sequence[AttentionSegment]) -> int:
    """Tokens of context that a step has room for: a power of two, so that few graphs suffice."""
    longest = max(segment.context_len + segment.query_len for segment in segments)
    return max(SHORTEST, 1 << (longest - 1).bit_length())


class DecodeInputs:
    """Slots, lengths and block tables of `count` sequences with one token each.

    One row of `packed` is a sequence: the slot of its token, its length with that token, its block
    table. Rows that no sequence fills write to `scratch_slot`, and read the first slot.
    """

    def __init__(
        self, count: int, room: int, *, block_size: int, scratch_slot: int, device: torch.device
    ) -> None:
        self._block_size = block_size
        self._width = -(-room // block_size)
        self._unused = [scratch_slot, 1] + [0] * self._width
        shape = (count, len(self._unused))
        self._packed = torch.zeros(shape, dtype=torch.int64, device=device)
        self._places = torch.arange(self._width * block_size, device=device)
        self._blocks = self._places // block_size
        self._offsets = self._places % block_size

    @property
    def write_slots(self) -> torch.Tensor:
        """[count] where the step's keys and values go."""
        return self._packed[:, 0]

    def fill(self, segments: Sequence[AttentionSegment]) -> None:
        """Take the sequences of a step, in one transfer."""
        rows = np.array([self._unused] * len(self._packed), dtype=np.int64)
        for row, segment in zip(rows, segments, strict=False):
            at, table = segment.context_len, segment.block_table[: self._width]
            assert at < len(segment.block_table) * self._block_size, "the table has no such token"
            row[:2] = (
                table[at // self._block_size] * self._block_size + at % self._block_size,
                at + 1,
            )
            row[2 : 2 + len(table)] = table
        self._packed.copy_(torch.from_numpy(rows))

    def context(self, null_slot: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots [count * room] of all contexts, and the mask [count, 1, 1, room] to add to scores.

        Padding reads `null_slot`, which is zero: what a block still holds of another sequence, NaN
        for example, is never read.
        """
        slots = self._packed[:, 2:].index_select(1, self._blocks) * self._block_size + self._offsets
        is_padding = self._places >= self._packed[:, 1:2]
        mask = torch.zeros(slots.shape, dtype=dtype, device=slots.device)
        mask.masked_fill_(is_padding, -torch.inf)
        return slots.masked_fill(is_padding, null_slot).flatten(), mask[:, None, None, :]
