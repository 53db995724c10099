"""What all layers of a step have in common, as the attention kernels want it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch

from glm4v.device.base import AttentionSegment
from glm4v.device.npu.chip import BLOCK_SIZE

_Ints = npt.NDArray[np.int32]


@dataclass(slots=True)
class Step:
    """The segments of a step; lengths stay on the host, where the operators read them."""

    slots: torch.Tensor  # [tokens] int32: where in the cache this step's keys and values go
    block_table: torch.Tensor  # [sequences, blocks] int32
    query_lens: list[int]  # of each sequence: tokens in this step
    context_lens: list[int]  # of each sequence: tokens in the cache, this step's included

    @property
    def query_ends(self) -> list[int]:
        """For each sequence, the tokens of the step up to its last."""
        return list(accumulate(self.query_lens))

    @property
    def is_decode(self) -> bool:
        """Whether every sequence has one token."""
        return len(self.query_lens) == len(self.slots)


def make_step(segments: Sequence[AttentionSegment], device: torch.device) -> Step:
    """Lay the segments out on the device; unused places of the block table name block 0."""
    context_lens = [segment.context_len + segment.query_len for segment in segments]
    table: _Ints = np.zeros((len(segments), -(-max(context_lens) // BLOCK_SIZE)), np.int32)
    slots = []
    for row, segment, end in zip(table, segments, context_lens, strict=True):
        used = -(-end // BLOCK_SIZE)
        assert used <= len(segment.block_table), "the block table does not cover its tokens"
        row[:used] = segment.block_table[:used]
        at = np.arange(segment.context_len, end)
        slots.append(row[at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE)
    return Step(
        torch.from_numpy(np.concatenate(slots).astype(np.int32)).to(device),
        torch.from_numpy(table).to(device),
        [segment.query_len for segment in segments],
        context_lens,
    )
