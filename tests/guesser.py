"""Drafts that are right and wrong at random, in place of those that `Drafter` makes."""

import random
from collections.abc import Callable, Iterator, Sequence

from lm_worker.engine.draft_planner import DraftPlanner
from lm_worker.engine.drafts import Drafter, MatchRates
from lm_worker.engine.sequence import SequenceState


class Guesser(Drafter):
    """Knows the answer that a sequence will have, and spoils a third of its tokens."""

    def __init__(self, rng: random.Random, sequence: SequenceState, answer: Sequence[int]) -> None:
        super().__init__((), sequence.request.stop_ids, MatchRates())
        self._rng = rng
        self._sequence = sequence
        self._answer = answer

    def observe(self, forced: int = 0) -> None:
        """Nothing is learnt."""

    def propose(self, most: int) -> Iterator[tuple[int, float]]:
        """Any number of tokens, stop ids among them."""
        first = len(self._sequence.token_ids)
        length = self._rng.randint(0, most)
        for token in self._answer[first : first + length]:
            yield token if self._rng.random() < 0.67 else self._rng.randrange(100), 1.0


class GuessingPlanner(DraftPlanner):
    """Checks guesses whatever they cost; `answer` gives the answer that a sequence will have."""

    def __init__(
        self, rng: random.Random, answer: Callable[[SequenceState], Sequence[int]]
    ) -> None:
        super().__init__()
        self._rng = rng
        self._answer = answer

    def begin(self, sequence: SequenceState) -> None:
        """Let a new sequence have several tokens a step."""
        super().begin(sequence)
        sequence.drafter = Guesser(self._rng, sequence, self._answer(sequence))

    def observe(self, rows: int, seconds: float) -> None:
        """Nothing is learnt: all rows are cheap."""
