"""Lets sequences wait for a beginning that another one is computing, to reuse its blocks.

Blocks can be reused only after the first token of the sequence that fills them (`Scheduler`). A
sequence waits at most twice as long as it would take to compute what it waits for: the other one
has no more than twice as many tokens left. Nothing is kept between steps, so if the other one is
removed, preempted or fails, the next sequence in order computes the beginning.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.sequence import SequenceState


class SharedPrefixes:
    """The beginnings that running sequences compute, and who waits for them; for one step.

    Args:
        pool: Where the blocks are cached.
        running: Sequences with blocks that cannot be reused yet.
        waiting: The others.
    """

    def __init__(
        self,
        pool: BlockPool,
        running: Iterable[SequenceState],
        waiting: Iterable[SequenceState],
    ) -> None:
        self._pool = pool
        self._size = pool.block_size
        self._left: dict[bytes, int] = {}  # by block hash: tokens until the block can be reused
        self._waiting: dict[bytes, list[SequenceState]] = {}  # by hash of the first block
        for sequence in waiting:
            if sequence.cacheable_blocks(self._size):
                [first] = sequence.block_hashes(self._size, 1)
                self._waiting.setdefault(first, []).append(sequence)
        if self._waiting:
            for sequence in running:
                self._add(sequence)

    def awaiting(self) -> Iterator[SequenceState]:
        """The waiting sequences that should go on waiting."""
        if self._left:
            for sequences in self._waiting.values():
                yield from filter(self._awaits, sequences)

    def start(self, sequence: SequenceState) -> list[SequenceState]:
        """Count a sequence among the running ones; returns those that should wait for it."""
        full = sequence.num_known_tokens // self._size
        [*first] = sequence.block_hashes(self._size, min(1, full))
        others = self._waiting.get(first[0], []) if first else []
        if others:
            self._add(sequence)
        return [other for other in others if other is not sequence and self._awaits(other)]

    def _add(self, sequence: SequenceState) -> None:
        left = sequence.num_uncomputed_tokens
        full = sequence.num_known_tokens // self._size
        for block_hash in sequence.block_hashes(self._size, full):
            self._left[block_hash] = min(left, self._left.get(block_hash, left))

    def _awaits(self, sequence: SequenceState) -> bool:
        """Whether the longest beginning that is being computed is worth the wait."""
        hashes = sequence.block_hashes(self._size, sequence.cacheable_blocks(self._size))
        # A hash covers all blocks before its own: after one that differs all do.
        common = bisect_left(hashes, True, key=lambda block_hash: block_hash not in self._left)
        missing = common - self._pool.cached_prefix(hashes[:common])
        return missing > 0 and self._left[hashes[common - 1]] <= 2 * missing * self._size
