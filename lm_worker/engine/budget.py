"""How many prefill rows a step may have, so that those who are being answered hardly notice.

A step with decodes shares its time: the decodes have what they would take alone, the prefills

    stretch - 1                   of that, or
    prefills / decodes            of that when it is more: as much for each as for each decode

so that one long prompt stretches the steps of many by `stretch` at most, and many prompts are not
held up by few answers. When more than half as many as are being answered wait behind the first
one, prefills have all of `max_batched_tokens`: each of them is an answer soon, and a step with more
answers takes hardly longer, while steps with few of them keep everybody waiting. What tokens cost
is measured as it goes; nothing is assumed of the device.
"""

import math

_LEAST_ROWS = 8  # in fewer, what a chunk costs whatever its length would count for too much
_KEEP = 0.9  # weight of what was known when a step's time comes in
_LONGEST = 4.0  # steps of decodes alone count as so many times what was known, at most
_FRESH_STEPS = 32  # mixed steps after which the decodes' own time is measured again


class StepBudget:
    """Rows of one step, learnt from the times of steps.

    `max_batched_tokens` is the most tokens of any step. `stretch` >= 1 is how much longer a step
    with decodes may take for one prefill; infinity lets prefills have all of `max_batched_tokens`.
    """

    def __init__(self, max_batched_tokens: int, stretch: float = math.inf) -> None:
        self.max_batched_tokens = max_batched_tokens
        self._stretch = stretch
        self._decode_s: dict[int, float] = {}  # by bit length of the number of decodes
        self._prefill_s = 0.0  # time that prefill rows took, older steps less and less
        self._prefill_tokens = 0.0  # their number, weighted alike
        self._mixed_steps = 0  # since decodes were last alone

    def prefill_tokens(self, decodes: int, prefills: int) -> int:
        """Rows for prefills beside `decodes` rows, when `prefills` sequences want some.

        Zero for a step now and then, to learn what the decodes take alone.
        """
        room = max(0, self.max_batched_tokens - decodes)
        is_crowded = 2 * (prefills - 1) > decodes
        if not decodes or is_crowded or math.isinf(self._stretch):
            return room
        decode_s = self._decode_s.get(decodes.bit_length())
        if decode_s is None or self._mixed_steps >= _FRESH_STEPS:
            return 0
        share = max(self._stretch - 1.0, prefills / decodes)
        if self._prefill_s * room <= share * decode_s * self._prefill_tokens:
            return room
        rows = int(share * decode_s * self._prefill_tokens / self._prefill_s)
        return min(room, max(_LEAST_ROWS, rows))

    def took(self, decodes: int, prefill_tokens: int, seconds: float) -> None:
        """Learn from a step that had so many rows of both kinds, from the end of the one before."""
        known = self._decode_s.get(decodes.bit_length())
        if prefill_tokens:
            self._mixed_steps += decodes > 0
            excess = max(0.0, seconds - (known or 0.0))
            self._prefill_s = _KEEP * self._prefill_s + excess
            self._prefill_tokens = _KEEP * self._prefill_tokens + prefill_tokens
        elif decodes:
            self._mixed_steps = 0
            before = seconds if known is None else known
            # A step that something held up says little of the next ones.
            likely = min(seconds, _LONGEST * before)
            self._decode_s[decodes.bit_length()] = _KEEP * before + (1.0 - _KEEP) * likely
