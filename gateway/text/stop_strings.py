"""Finds the first stop string in a text that arrives in pieces."""

from collections.abc import Sequence


class StopStrings:
    """Matches all stop strings at once, character by character.

    The string that is complete first wins, the longest of those that are complete together. So
    the text alone decides, not the pieces it came in.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        longest_first = sorted(set(stops), key=len, reverse=True)
        self._patterns = [(stop, _fallbacks(stop)) for stop in longest_first]
        self._matched = [0] * len(longest_first)  # characters of each that the text ends with

    @property
    def held(self) -> int:
        """Characters at the end of the text that a stop string may begin with."""
        return max(self._matched, default=0)

    def feed(self, text: str) -> tuple[str, int] | None:
        """The next piece: the stop string it completes and the index in it after its end."""
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
