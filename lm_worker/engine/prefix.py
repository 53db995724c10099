"""What tells the beginning of one sequence from that of another: tokens, image and salt."""

from array import array
from hashlib import blake2b

_KEPT = 3  # contents: a sequence that waits is asked for the same two or three in every step


class Prefix:
    """The beginnings of one sequence, of whole blocks and in between.

    Args:
        tokens: Its tokens, which may grow: an id, or -1-k for row k of the image embedding.
        image: Digest of the image's content, empty without one.
        salt: Sequences share beginnings only within one salt.
    """

    def __init__(self, tokens: "array[int]", image: str, salt: str) -> None:
        self._tokens = tokens
        self._image = image
        self.root = blake2b(salt.encode(), digest_size=16).digest()  # as if before the first block
        self._hashes: list[bytes] = []
        self._contents: dict[tuple[int, int], tuple[int, ...]] = {}  # the last ones asked for

    def hashes(self, block_size: int, blocks: int) -> list[bytes]:
        """Hashes of the first `blocks` full blocks, each over its tokens and all before them.

        Blocks with image tokens include the image's digest, as those ids are the same for every
        image. The first hash includes the salt.
        """
        while len(self._hashes) < blocks:
            start = len(self._hashes) * block_size
            tokens = self._tokens[start : start + block_size]
            assert len(tokens) == block_size, "only full blocks have a hash"
            digest = blake2b(self._hashes[-1] if self._hashes else self.root, digest_size=16)
            digest.update(tokens.tobytes())
            if any(token < 0 for token in tokens):
                digest.update(self._image.encode())
            self._hashes.append(digest.digest())
        return self._hashes[:blocks]

    def parent(self, block_size: int, block: int) -> bytes:
        """The hash of all that comes before block number `block`."""
        return self.hashes(block_size, block)[-1] if block else self.root

    def content(self, start: int, end: int) -> tuple[int, ...]:
        """Tokens [start, end), as far as known; an image's are unlike those of other images."""
        content = self._contents.get((start, end))
        if content is None:
            content = self._content(start, end)
            if len(content) == end - start:
                if len(self._contents) == _KEPT:
                    del self._contents[next(iter(self._contents))]
                self._contents[start, end] = content
        return content

    def _content(self, start: int, end: int) -> tuple[int, ...]:
        tokens = self._tokens[start:end]
        if not tokens or min(tokens) >= 0:
            return tuple(tokens)
        name = int.from_bytes(blake2b(self._image.encode(), digest_size=16).digest())
        other = (name + 1) << 32  # more than any image has tokens
        return tuple(token if token >= 0 else token - other for token in tokens)
