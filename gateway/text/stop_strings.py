"""Finds the first stop string in a text that arrives in chunks."""

from collections.abc import Sequence


class StopStrings:
    """Matches all stop strings in parallel, character by character.

    The first string to be complete wins, and among strings complete at the same character the
    longest. The result depends on the text, not on its chunks.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        longest_first = sorted(set(stops), key=len, reverse=True)
        self._patterns = [(stop, _fallbacks(stop)) for stop in longest_first]
        self._matched = [0] * len(longest_first)  # length of the prefix that the text ends with

    @property
    def partial_match_length(self) -> int:
        """Length of the longest end of the text that is the start of a stop string."""
        return max(self._matched, default=0)

    def feed(self, text: str) -> tuple[str, int] | None:
        """Take the next chunk; the stop string it completes, and the index in it after its end."""
        if not self._patterns:
            return None
        for index, character in enumerate(text):
            for number, (stop, fallbacks) in enumerate(self._patterns):
                matched = self._matched[number]
                while matched and stop[matched] != character:
                    matched = fallbacks[matched - 1]
                matched += stop[matched] == character
                if matched == len(stop):
                    return stop, index + 1
                self._matched[number] = matched
        return None


def _fallbacks(stop: str) -> list[int]:
    """For each prefix, the length of its longest proper suffix that is a prefix (Knuth-Morris-
    Pratt)."""
    lengths = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[index] != stop[length]:
            length = lengths[length - 1]
        length += stop[index] == stop[length]
        lengths[index] = length
    return lengths
