"""Finds the blocks that hold the beginning of a sequence, and what their tokens are."""

from typing import NamedTuple

from lm_worker.engine.continuations import Content, Continuations


class Held(NamedTuple):
    """What a block holds that another sequence can use."""

    parent: bytes  # hash of all tokens before the block
    content: Content  # its first tokens, or all
    block_hash: bytes | None  # hash of these and all before; None unless the block is full


class PrefixIndex:
    """Full blocks by hash, and all blocks by what comes before them.

    Tokens of a block that a sequence does not share to its end are compared one by one.
    """

    def __init__(self) -> None:
        self._full: dict[bytes, int] = {}  # by hash
        self._after: dict[bytes, Continuations] = {}  # by parent: contents with their blocks
        self._held: dict[int, Held] = {}  # by block

    def __contains__(self, block: int) -> bool:
        return block in self._held

    def full_block(self, block_hash: bytes) -> int | None:
        """The block with that hash."""
        return self._full.get(block_hash)

    def longest_run(self, parent: bytes, content: Content) -> tuple[int, int]:
        """How many tokens of `content` a block after `parent` begins with, and which one."""
        after = self._after.get(parent)
        return (0, -1) if after is None else after.longest_run(content)

    def put(self, block: int, held: Held) -> None:
        """Remember what a block holds, unless another one is known to hold all of it."""
        if self._held.get(block) == held:
            return
        self.remove(block)
        if held.block_hash is not None:
            if held.block_hash in self._full:
                return
            self._full[held.block_hash] = block
        elif self.longest_run(held.parent, held.content)[0] == len(held.content):
            return
        self._held[block] = held
        self._after.setdefault(held.parent, Continuations()).add(held.content, block)

    def remove(self, block: int) -> None:
        """Forget what a block holds, if anything."""
        held = self._held.pop(block, None)
        if held is None:
            return
        if held.block_hash is not None:
            del self._full[held.block_hash]
        after = self._after[held.parent]
        after.remove(held.content, block)
        if not after:
            del self._after[held.parent]

    def check_integrity(self) -> list[str]:
        """Inconsistencies; empty if there are none."""
        hashes = {
            held.block_hash: block
            for block, held in self._held.items()
            if held.block_hash is not None
        }
        wrong = [] if hashes == self._full else ["full blocks and their hashes disagree"]
        if sum(map(len, self._after.values())) != len(self._held):
            wrong.append("blocks and what comes before them disagree")
        if any(
            self.longest_run(held.parent, held.content)[0] != len(held.content)
            for held in self._held.values()
        ):
            wrong.append("a block is not found by its tokens")
        return wrong
