"""Decides which drafts a step checks: those that save more than their rows cost."""

from collections.abc import Iterator, Sequence

from lm_worker.engine.drafts import Drafter, MatchRates
from lm_worker.engine.row_costs import RowCosts
from lm_worker.engine.sequence import SequenceState

MAX_DRAFTS = 15  # tokens of a sequence; with the known one before them, 16 are computed at once
MAX_FORCED = 15  # tokens that a step may add to a sequence without sampling them
_MARGIN = 1.3  # what a draft must be expected to save, in units of what it costs
_LEAST_LIKELY = 0.3  # less likely drafts are not checked: costs are not known that exactly
_RETRIED_STEPS = 256  # steps with drafts that did not pay, after which one is measured again


class DraftPlanner:
    """The drafts of each step.

    A step of `n` sequences gives `n` tokens. A draft that is right with probability `p` adds
    `p / n` to them, and its row adds `RowCosts.of_another` to the step's duration. It is checked if
    it adds more than it costs: alone on a processor nearly always, in a full batch hardly ever.
    """

    def __init__(self) -> None:
        self._rates = MatchRates()
        self._costs = RowCosts()
        self._refused = 0  # steps since the last one whose drafts were measured anyway

    def begin(self, sequence: SequenceState) -> None:
        """Let a new sequence have several tokens a step."""
        sequence.drafter = Drafter(sequence.tokens, sequence.request.stop_ids, self._rates)
        sequence.most_forced = MAX_FORCED

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a step of decodes alone; `seconds` from the end of the step before it."""
        self._costs.observe(rows, seconds)

    def drafts(
        self, sequences: Sequence[SequenceState], rows: int, most: int
    ) -> Iterator[tuple[int, ...]]:
        """Of each sequence in turn, `most` together; the step has `rows` rows without them."""
        count, wanted, taken = len(sequences), False, 0
        is_measured = self._refused >= _RETRIED_STEPS
        for sequence in sequences:
            drafts: list[int] = []
            room = min(most - taken, MAX_DRAFTS, sequence.num_tokens_left - 1)
            if sequence.drafter is not None and room > 0:
                for token_id, likely in sequence.drafter.propose(room):
                    wanted = wanted or likely > 0.5
                    cost = count * self._costs.of_another(rows + taken)
                    pays = likely > max(_LEAST_LIKELY, _MARGIN * cost)
                    if not pays and not (is_measured and likely > 0.5):
                        break
                    drafts.append(token_id)
                    taken += 1
            yield tuple(drafts)
        if taken:
            self._refused = 0
        else:
            self._refused += wanted
