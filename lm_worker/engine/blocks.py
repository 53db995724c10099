"""The pool of KV-cache blocks, with reference counts and a prefix cache.

Every block is in exactly one of three states:

    free ──allocate──► in use by one or more sequences ──release──► evictable, found by tokens
      ▲                       │ release, if nobody could find it       │ evicted, least
      └───────────────────────┴────────────────────────────────────────┘ recently used first
"""

import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from lm_worker.engine.continuations import Content
from lm_worker.engine.prefix_index import Held, PrefixIndex


class BlockPool:
    """Allocates blocks by number; holds no tensors."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.total = blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._ref_counts = [0] * blocks
        self._evictable: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._index = PrefixIndex()

    @property
    def available(self) -> int:
        """Blocks that can be allocated: free and evictable ones."""
        return len(self._free) + len(self._evictable)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def can_allocate(self, count: int) -> bool:
        """Whether `count` blocks are available."""
        return count <= self.available

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks; the caller has checked `can_allocate`."""
        assert self.can_allocate(count), f"{count} blocks wanted, {self.available} available"
        taken = []
        for _ in range(count):
            block = self._free.pop() if self._free else self._evict()
            self._ref_counts[block] = 1
            taken.append(block)
        return taken

    def acquire_prefix(self, hashes: Iterable[bytes]) -> list[int]:
        """Take a reference to each block of the longest cached prefix of `hashes`."""
        found = []
        for block_hash in hashes:
            block = self._index.full_block(block_hash)
            if block is None:
                break
            self._evictable.pop(block, None)
            self._ref_counts[block] += 1
            found.append(block)
        return found

    def cached_prefix(self, hashes: Iterable[bytes]) -> int:
        """How many blocks `acquire_prefix` would find."""
        return sum(
            1
            for _ in itertools.takewhile(
                lambda block_hash: self._index.full_block(block_hash) is not None, hashes
            )
        )

    def longest_run(self, parent: bytes, content: Content) -> tuple[int, int]:
        """How many tokens of `content` a cached block after `parent` begins with, and which one.

        That block counts as used. Its tokens stay until a step writes to it, even if it is evicted.
        """
        run, block = self._index.longest_run(parent, content)
        if block in self._evictable:
            self._evictable.move_to_end(block)
        return run, block

    def cached_run(self, parent: bytes, content: Content) -> int:
        """How many tokens `longest_run` would find."""
        return self._index.longest_run(parent, content)[0]

    def publish(self, block: int, held: Held) -> None:
        """Let others find a block in use by what it holds, which must not change any more."""
        self._index.put(block, held)

    def unpublish(self, blocks: Iterable[int]) -> None:
        """Let nobody find blocks in use any more; their sequences keep them."""
        for block in blocks:
            self._index.remove(block)

    def release(self, blocks: Sequence[int]) -> None:
        """Drop a sequence's references; its last blocks are evicted first."""
        for block in reversed(blocks):
            assert self._ref_counts[block] > 0, f"block {block} released twice"
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                if block in self._index:
                    self._evictable[block] = None
                else:
                    self._free.append(block)

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> list[str]:
        """Inconsistencies with the block tables of all sequences; empty if there are none."""
        used = Counter(block for table in tables for block in table)
        wrong = [
            f"block {block}: reference count {self._ref_counts[block]}, in {used[block]} tables"
            for block in range(self.total)
            if self._ref_counts[block] != used[block]
        ]
        states = Counter([*self._free, *self._evictable, *used.keys()])
        wrong += [
            f"block {block}: in {states[block]} states"
            for block in range(self.total)
            if states[block] != 1
        ]
        if any(block not in self._index for block in self._evictable):
            wrong.append("a block that nobody can find waits to be evicted")
        return wrong + self._index.check_integrity()

    def _evict(self) -> int:
        block, _ = self._evictable.popitem(last=False)
        self._index.remove(block)
        return block
