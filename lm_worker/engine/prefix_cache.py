"""Gives sequences their blocks, with what other ones have computed of their tokens.

    in the cache    |a a a a|b b b b|c c c d|      blocks of 4 tokens
    a sequence      |a a a a|b b b b|c c e  |
    it gets         the first two blocks, and a copy of two tokens; it computes one

Whole blocks are shared. Where it goes on unlike the cached block, it writes to a block of its own,
which takes over the tokens that are alike. The copies of a step are made in their order before the
step writes anything. So a source may be evicted, or given to another sequence, by the same plan.
"""

from collections.abc import Iterable

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.prefix_index import Held
from lm_worker.engine.sequence import SequenceState
from lm_worker.engine.shared_prefixes import SharedPrefixes
from lm_worker.plan import BlockCopy


class PrefixCache:
    """The blocks of running sequences, and those that are kept for later ones.

    `is_enabled` is False to keep and share nothing.
    """

    def __init__(self, pool: BlockPool, *, is_enabled: bool = True) -> None:
        self._pool = pool
        self._size = pool.block_size
        self._is_enabled = is_enabled
        self._copies: list[BlockCopy] = []

    def start(self, sequence: SequenceState) -> bool:
        """Give a sequence blocks for its known tokens; False, and none, if too few are available.

        Tokens that are in the cache count as computed.
        """
        pool, size = self._pool, self._size
        cacheable = sequence.num_cacheable_tokens if self._is_enabled else 0
        shared = pool.acquire_prefix(sequence.prefix.hashes(size, cacheable // size))
        missing = pool.blocks_for(sequence.num_known_tokens) - len(shared)
        if not pool.can_allocate(missing):
            pool.release(shared)
            return False
        start = len(shared) * size
        content = sequence.prefix.content(start, min(start + size, cacheable))
        run, source = pool.longest_run(sequence.prefix.parent(size, len(shared)), content)
        own = pool.allocate(missing)
        if run and source != own[0]:
            self._copies.append(BlockCopy(source, own[0], run))
        sequence.take_blocks(shared + own, size, num_cached_tokens=start, num_copied_tokens=run)
        return True

    def take_copies(self) -> tuple[BlockCopy, ...]:
        """The copies for the sequences that were started since the last call."""
        copies, self._copies = tuple(self._copies), []
        return copies

    def keep(self, sequence: SequenceState) -> None:
        """Let later sequences find the sound tokens of a running one."""
        sound = sequence.num_sound_tokens
        if not self._is_enabled or sound <= sequence.num_cached_tokens:
            return
        size, prefix = self._size, sequence.prefix
        for index in range(sequence.num_cached_tokens // size, self._pool.blocks_for(sound)):
            end = (index + 1) * size
            held = Held(
                prefix.parent(size, index),
                prefix.content(index * size, min(end, sound)),
                prefix.parent(size, index + 1) if end <= sound else None,
            )
            self._pool.publish(sequence.block_table[index], held)
        sequence.num_cached_tokens = sound

    def forget(self, sequence: SequenceState) -> None:
        """Let no later sequence find any of a running one's blocks."""
        self._pool.unpublish(sequence.block_table)
        sequence.num_sound_tokens = sequence.num_cached_tokens = 0

    def stop(self, sequence: SequenceState) -> None:
        """Release a running sequence's blocks; its sound tokens are kept while there is room."""
        self.keep(sequence)
        self._pool.release(sequence.block_table)
        sequence.release_blocks()

    def shared_prefixes(
        self, running: Iterable[SequenceState], waiting: Iterable[SequenceState]
    ) -> SharedPrefixes:
        """What running sequences compute that waiting ones could reuse."""
        size = self._size
        computing = (
            sequence
            for sequence in running
            if sequence.tokens_to_cache(size) > sequence.num_cached_tokens
        )
        return SharedPrefixes(self._pool, computing, waiting if self._is_enabled else ())
