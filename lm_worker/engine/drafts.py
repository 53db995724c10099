"""Guesses the next tokens of a sequence from earlier places of prompt and answer (prompt lookup).

Where the last few tokens occurred before, what followed them there is likely to follow again. A
sequence keeps such a place and compares what stands there with every token that it gets, whether or
not a step checked it as a draft. So how often such tokens are right is known without checking any.
"""

from collections.abc import Iterator, Sequence

MATCH = 3  # last tokens that must have occurred before
_OWN_DECAY = 0.95  # of a sequence's own tokens
_SHARED_DECAY = 0.998  # of all sequences' tokens
_SHARED_WEIGHT = 4.0  # tokens of its own that the rate of all sequences counts as much as
_LENGTHS = (4, 6, 10, 18)  # matches are told apart by the first of these that they are shorter than


class _Rate:
    """How many of the last tokens were right."""

    def __init__(self, decay: float, right: float, seen: float) -> None:
        self._decay = decay
        self.right = right
        self.seen = seen

    def observe(self, right: bool) -> None:
        self.right = self._decay * self.right + right
        self.seen = self._decay * self.seen + 1.0


class MatchRates:
    """How often tokens of earlier places were right, of all sequences, by length of the match."""

    def __init__(self) -> None:
        self._rates = [_Rate(_SHARED_DECAY, 1.0, 4.0) for _ in range(len(_LENGTHS) + 1)]

    def observe(self, matched: int, right: bool) -> None:
        """Learn from the token after `matched` equal ones."""
        self._rates[_bin(matched)].observe(right)

    def rate(self, matched: int) -> float:
        """Of the token after `matched` equal ones."""
        known = self._rates[_bin(matched)]
        return known.right / known.seen


def _bin(matched: int) -> int:
    return next((at for at, length in enumerate(_LENGTHS) if matched < length), len(_LENGTHS))


class Drafter:
    """Drafts of one sequence.

    Args:
        tokens: Prompt and output, which grow; negative for those of an image.
        stop_ids: Never drafted, as nothing follows them.
        rates: Those of all sequences.
    """

    def __init__(self, tokens: Sequence[int], stop_ids: frozenset[int], rates: MatchRates) -> None:
        self._tokens = tokens
        self._stop_ids = stop_ids
        self._rates = rates
        self._own = _Rate(_OWN_DECAY, 0.0, 0.0)
        self._places: dict[int, int] = {}  # by hash of MATCH tokens: the index after them
        self._known = len(tokens)  # tokens whose places are in `_places`
        self._place = -1  # index of the token that is likely next; -1: none
        self._matched = 0  # equal tokens before it
        self._expected: tuple[int, ...] = ()  # tokens that are certainly next
        for end in range(MATCH, self._known):
            self._remember(end)
        self._look_up()

    def observe(self, forced: int = 0) -> None:
        """Take the tokens that `tokens` has got; the last `forced` were not the model's choice."""
        tokens, end = self._tokens, len(self._tokens)
        chosen = range(self._known + len(self._expected), end - forced)  # by the model
        self._expected = ()
        for at in range(self._known, end):
            if self._place >= 0:
                is_right = tokens[self._place] == tokens[at]
                if at in chosen:
                    self._own.observe(is_right)
                    self._rates.observe(self._matched, is_right)
                self._matched += 1
                self._place = self._place + 1 if is_right else -1
            self._remember(at)
            self._known = at + 1
            if self._place < 0:
                self._look_up()

    def expect(self, token_ids: Sequence[int]) -> None:
        """A format forces these next, but their log-probabilities are wanted: check them all."""
        self._expected = tuple(token_ids)

    def propose(self, most: int) -> Iterator[tuple[int, float]]:
        """At most `most` tokens, each with the probability that it and those before are right."""
        if self._expected:
            yield from ((token_id, 1.0) for token_id in self._expected[:most])
            return
        if self._place < 0:
            return
        tokens, end, likely = self._tokens, len(self._tokens), 1.0
        for at in range(most):
            # What repeats goes on repeating, beyond the last token too.
            token_id = tokens[self._place + at % (end - self._place)]
            if token_id < 0 or token_id in self._stop_ids:
                return
            shared = _SHARED_WEIGHT * self._rates.rate(self._matched + at)
            likely *= (shared + self._own.right) / (_SHARED_WEIGHT + self._own.seen)
            yield token_id, likely

    def _remember(self, end: int) -> None:
        """That the token at `end` follows the ones before it."""
        if end >= MATCH and self._tokens[end] >= 0:
            self._places[hash(tuple(self._tokens[end - MATCH : end]))] = end

    def _look_up(self) -> None:
        self._place = -1
        if self._known >= MATCH:
            last = tuple(self._tokens[self._known - MATCH : self._known])
            self._place = self._places.get(hash(last), -1)
            self._matched = MATCH
