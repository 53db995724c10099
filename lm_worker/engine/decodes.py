"""The chunks of decoding sequences in one step: one token of each, or several."""

from collections.abc import Sequence

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.draft_planner import DraftPlanner
from lm_worker.engine.sequence import SequenceState
from lm_worker.plan import Chunk


def decode_chunks(
    sequences: Sequence[SequenceState], pool: BlockPool, most: int, planner: DraftPlanner | None
) -> list[Chunk]:
    """A chunk for each: what its format forced, then drafts, as far as `most` tokens are enough.

    There are at most `most` sequences.
    """
    left = most - len(sequences)
    chunks: list[Chunk] = []
    sampling: list[SequenceState] = []
    for sequence in sequences:
        more = sequence.num_uncomputed_tokens - 1
        if more <= left:
            sampling.append(sequence)
        else:
            chunks.append(sequence.chunk(1 + left))
        left -= min(more, left)
    if planner is None:
        return chunks + [sequence.decode_chunk() for sequence in sampling]
    planned = planner.drafts(sampling, most - left, left)
    for sequence, drafts in zip(sampling, planned, strict=True):
        room = _room_for_drafts(sequence, len(drafts), pool) if drafts else 0
        chunks.append(sequence.decode_chunk(drafts[:room]))
    return chunks


def _room_for_drafts(sequence: SequenceState, count: int, pool: BlockPool) -> int:
    """How many of `count` drafts have a place in the cache, after taking free blocks."""
    known = sequence.num_known_tokens
    missing = pool.blocks_for(known + count) - len(sequence.block_table)
    if missing > 0 and pool.can_allocate(missing):
        sequence.add_blocks(pool.allocate(missing), pool.block_size)
    return min(known + count, sequence.capacity) - known
