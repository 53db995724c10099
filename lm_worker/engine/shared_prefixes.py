"""Lets sequences wait for a beginning that another one is computing, to reuse its blocks.

Blocks can be reused only after the next token of the sequence that fills them (`PrefixCache`). A
sequence waits at most twice as long as it would take to compute what it waits for: the other one
has no more than twice as many tokens left. Nothing is kept between steps, so if the other one is
removed, preempted or fails, the next sequence in order computes the beginning.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.continuations import Continuations
from lm_worker.engine.sequence import SequenceState

_SHORTEST = 8  # tokens; for beginnings of fewer nobody waits
_Beginning = tuple[bytes, tuple[int, ...]]  # salt and first tokens


class SharedPrefixes:
    """The beginnings that running sequences compute, and who waits for them; for one step.

    Args:
        pool: Where the blocks are cached.
        running: Sequences with tokens that cannot be reused yet.
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
        self._computing: dict[bytes, list[SequenceState]] = {}  # by hashes of blocks, and roots
        self._after: dict[bytes, Continuations] = {}  # what those have next, and tokens they lack
        self._beginnings: set[_Beginning] = set()  # of those that compute
        self._waiting: dict[_Beginning, list[SequenceState]] = {}
        for sequence in waiting:
            if sequence.num_cacheable_tokens >= _SHORTEST:
                self._waiting.setdefault(_beginning(sequence), []).append(sequence)
        if self._waiting:
            for sequence in running:
                self._add(sequence)

    def awaiting(self) -> Iterator[SequenceState]:
        """The waiting sequences that should go on waiting."""
        for beginning in self._beginnings & self._waiting.keys():
            yield from filter(self._awaits, self._waiting[beginning])

    def start(self, sequence: SequenceState) -> list[SequenceState]:
        """Count a sequence among the running ones; returns those that should wait for it."""
        others = self._waiting.get(_beginning(sequence), []) if self._waiting else []
        if others:
            self._add(sequence)
        return [other for other in others if other is not sequence and self._awaits(other)]

    def _add(self, sequence: SequenceState) -> None:
        self._beginnings.add(_beginning(sequence))
        prefix = sequence.prefix
        full = sequence.tokens_to_cache(self._size) // self._size
        for parent in (prefix.root, *prefix.hashes(self._size, full)):
            self._computing.setdefault(parent, []).append(sequence)
            self._after.pop(parent, None)

    def _awaits(self, sequence: SequenceState) -> bool:
        """Whether the longest beginning that is being computed is worth the wait."""
        size, prefix = self._size, sequence.prefix
        cacheable = sequence.num_cacheable_tokens
        hashes = prefix.hashes(size, cacheable // size)
        # A hash covers all blocks before its own: after one that differs all do.
        blocks = bisect_left(hashes, True, key=lambda each: each not in self._computing)
        parent, start = prefix.parent(size, blocks), blocks * size
        computing = self._computing.get(parent)
        if computing is None:
            return False
        content = prefix.content(start, min(start + size, cacheable))
        run, left = self._continuations(parent, blocks).longest_run(content)
        cached_blocks = self._pool.cached_prefix(hashes[:blocks])
        cached = cached_blocks * size
        if cached_blocks == blocks:
            cached += self._pool.cached_run(parent, content)
        if run and left <= 2 * (start + run - cached):
            return start + run > cached
        nearest = min(other.num_uncomputed_tokens for other in computing)
        return start > cached and nearest <= 2 * (start - cached)

    def _continuations(self, parent: bytes, blocks: int) -> Continuations:
        """What the sequences that compute `parent`, of so many blocks, will have after it."""
        if (known := self._after.get(parent)) is not None:
            return known
        after = self._after[parent] = Continuations()
        start = blocks * self._size
        for other in self._computing[parent]:
            end = min(start + self._size, other.tokens_to_cache(self._size))
            after.add(other.prefix.content(start, end), other.num_uncomputed_tokens)
        return after


def _beginning(sequence: SequenceState) -> _Beginning:
    return sequence.prefix.root, sequence.prefix.content(0, _SHORTEST)
