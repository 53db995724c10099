"""The pool of KV-cache blocks, with reference counts and a prefix cache.

Every block is in exactly one of three states:

    free ──allocate──► in use by one or more sequences ──release──► evictable, found by hash
      ▲                       │ release, without a hash                │ evicted, least
      └───────────────────────┴────────────────────────────────────────┘ recently used first
"""

import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Allocates blocks by number; holds no tensors."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.total = blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._ref_counts = [0] * blocks
        self._evictable: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._by_hash: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

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
            block = self._by_hash.get(block_hash)
            if block is None:
                break
            self._evictable.pop(block, None)
            self._ref_counts[block] += 1
            found.append(block)
        return found

    def cached_prefix(self, hashes: Iterable[bytes]) -> int:
        """How many blocks `acquire_prefix` would find."""
        return sum(1 for _ in itertools.takewhile(self._by_hash.__contains__, hashes))

    def publish_block(self, block: int, block_hash: bytes) -> None:
        """Make a full block reusable under the hash of its tokens and all tokens before them."""
        if block_hash not in self._by_hash and block not in self._hash_of:
            self._by_hash[block_hash] = block
            self._hash_of[block] = block_hash

    def unpublish(self, blocks: Iterable[int]) -> None:
        """Remove blocks in use from the prefix cache; their sequences keep them."""
        for block in blocks:
            if (block_hash := self._hash_of.pop(block, None)) is not None:
                del self._by_hash[block_hash]

    def release(self, blocks: Sequence[int]) -> None:
        """Drop a sequence's references; its last blocks are evicted first."""
        for block in reversed(blocks):
            assert self._ref_counts[block] > 0, f"block {block} released twice"
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                if block in self._hash_of:
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
        if any(self._by_hash.get(h) != b for b, h in self._hash_of.items()):
            wrong.append("the two hash tables disagree")
        return wrong

    def _evict(self) -> int:
        block, _ = self._evictable.popitem(last=False)
        del self._by_hash[self._hash_of.pop(block)]
        return block
