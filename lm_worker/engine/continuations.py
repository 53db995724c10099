"""Finds, among all that follows one beginning, what goes on like a sequence for longest."""

from bisect import bisect_left, insort

Content = tuple[int, ...]  # of a block, or of its first tokens: `Prefix.content`


class Continuations:
    """Contents with a number each, in order: the longest common run is one with a neighbour."""

    def __init__(self) -> None:
        self._sorted: list[tuple[Content, int]] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, content: Content, number: int) -> None:
        """Add a content; the same one may be there with other numbers."""
        insort(self._sorted, (content, number))

    def remove(self, content: Content, number: int) -> None:
        """Remove what was added."""
        at = bisect_left(self._sorted, (content, number))
        assert self._sorted[at] == (content, number)
        del self._sorted[at]

    def longest_run(self, content: Content) -> tuple[int, int]:
        """How many tokens `content` begins with like one of them, and the number of that one.

        The smallest number of those that are equal to it. (0, -1) without any.
        """
        at = bisect_left(self._sorted, (content, -1))
        best = (0, -1)
        for other, number in self._sorted[max(0, at - 1) : at + 1]:
            run = _common_tokens(content, other)
            if run > best[0]:
                best = (run, number)
        return best


def _common_tokens(one: Content, other: Content) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
