"""The pool of KV-cache blocks: who holds which, and which still hold rows worth finding again.

Every block is in exactly one of three states:

    free ──allocate──► held, by one or more sequences ──release──► kept, to be found by hash
      ▲                       │ release, without a hash                │ evicted, longest
      └───────────────────────┴────────────────────────────────────────┘ unused first
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Hands out blocks by number; knows nothing of tensors."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.total = blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._holders = [0] * blocks
        self._kept: OrderedDict[int, None] = OrderedDict()  # longest unused first
        self._by_hash: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Blocks that can be allocated, those that would be evicted included."""
        return len(self._free) + len(self._kept)

    def blocks_for(self, rows: int) -> int:
        """Blocks that hold `rows` rows."""
        return -(-rows // self.block_size)

    def can_allocate(self, count: int) -> bool:
        """Whether `count` blocks are available."""
        return count <= self.available

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks; the caller has asked `can_allocate`."""
        assert self.can_allocate(count), f"{count} blocks of {self.available}"
        taken = []
        for _ in range(count):
            block = self._free.pop() if self._free else self._evict()
            self._holders[block] = 1
            taken.append(block)
        return taken

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """Hold the longest run of blocks whose rows are known by `hashes`, from the first on."""
        found = []
        for block_hash in hashes:
            block = self._by_hash.get(block_hash)
            if block is None:
                break
            self._kept.pop(block, None)
            self._holders[block] += 1
            found.append(block)
        return found

    def remember(self, block: int, block_hash: bytes) -> None:
        """Let a full block be found by the hash of its rows and all rows before them."""
        if block_hash not in self._by_hash and block not in self._hash_of:
            self._by_hash[block_hash] = block
            self._hash_of[block] = block_hash

    def forget(self, blocks: Iterable[int]) -> None:
        """Let held blocks be found no more; who holds them keeps them."""
        for block in blocks:
            if (block_hash := self._hash_of.pop(block, None)) is not None:
                del self._by_hash[block_hash]

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a sequence's blocks; its last rows are the first to be evicted."""
        for block in reversed(blocks):
            assert self._holders[block] > 0, f"block {block} is released twice"
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if block in self._hash_of:
                    self._kept[block] = None
                else:
                    self._free.append(block)

    def audit(self, tables: Iterable[Sequence[int]]) -> list[str]:
        """What is wrong, given all sequences' block tables; empty when all is accounted for."""
        held = Counter(block for table in tables for block in table)
        wrong = [
            f"block {block}: {self._holders[block]} holders, in {held[block]} tables"
            for block in range(self.total)
            if self._holders[block] != held[block]
        ]
        places = Counter([*self._free, *self._kept, *held.keys()])
        wrong += [
            f"block {block}: in {places[block]} states"
            for block in range(self.total)
            if places[block] != 1
        ]
        if any(self._by_hash.get(h) != b for b, h in self._hash_of.items()):
            wrong.append("the two hash tables differ")
        return wrong

    def _evict(self) -> int:
        block, _ = self._kept.popitem(last=False)
        del self._by_hash[self._hash_of.pop(block)]
        return block
