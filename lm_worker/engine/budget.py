"""Decides how many decodes a step has when clients share it, and how many prefill tokens beside.

A client with many sequences may make a step `_CLIENT_SLOWDOWN` times as long for one with few.

A mixed step may take `prefill_slowdown` times as long as a decode-only step, or longer when there
are many prefills: they get at least prefills / decodes of the decodes' time. So one long prompt
slows the decodes by `prefill_slowdown` at most, and a few decodes do not hold up many prompts.

If more than half as many requests wait for prefill as are decoding, prefills get the whole budget:
a larger decode batch costs hardly more per step, and a small one keeps everybody waiting.

The costs of prefill tokens and decode steps are measured online; no device is assumed.
"""

import math

_MIN_CHUNK_TOKENS = 8  # the fixed cost of a smaller chunk would distort the measurement
_DECAY = 0.9  # weight of the old average when a step is observed
_MAX_OUTLIER = 4.0  # a decode-only step counts as at most this many times the average
_FRESH_STEPS = 32  # mixed or shared steps after which a step without the others is measured again
_CLIENT_SLOWDOWN = 1.5


class StepBudget:
    """The token budget of a step, learnt from the durations of earlier steps.

    `max_batched_tokens` limits every step. `prefill_slowdown` >= 1 is the largest slowdown of a
    decode step caused by one prefill; with infinity prefills always get the whole budget.
    """

    def __init__(self, max_batched_tokens: int, prefill_slowdown: float = math.inf) -> None:
        self.max_batched_tokens = max_batched_tokens
        self._prefill_slowdown = prefill_slowdown
        self._decode_s: dict[int, float] = {}  # by bit length of the number of decodes
        self._decodes: dict[int, float] = {}  # the average number, by its bit length
        self._prefill_s = 0.0  # seconds spent on prefill tokens, decayed
        self._prefill_tokens = 0.0  # their number, decayed alike
        self._mixed_steps = 0  # since the last decode-only step
        self._shared_steps = 0  # with decodes of unequal clients

    def decodes(self, fair: int, wanted: int) -> int:
        """Decodes in a step for which clients have `wanted`.

        `fair` is their number if no client had more than the one with fewest: the step may take
        `_CLIENT_SLOWDOWN` times as long as with these. Where a step with all of them takes hardly
        longer, all are in it. Now and then only `fair`, to measure such a step.
        """
        many, few = wanted.bit_length(), fair.bit_length()
        if many == few or many not in self._decode_s:
            return wanted
        is_known = few in self._decode_s
        self._shared_steps += 1
        if self._shared_steps % (_FRESH_STEPS if is_known else 2) == 0:
            return fair
        if not is_known:
            return wanted
        more_s = self._decode_s[many] - self._decode_s[few]
        each_s = more_s / (self._decodes[many] - self._decodes[few])
        allowed_s = (_CLIENT_SLOWDOWN - 1) * self._decode_s[few]
        return wanted if (wanted - fair) * each_s <= allowed_s else fair + int(allowed_s / each_s)

    def prefill_tokens(self, decodes: int, prefills: int) -> int:
        """Prefill tokens in a step with `decodes` decodes, when `prefills` sequences need prefill.

        Zero now and then, to measure a decode-only step.
        """
        capacity = max(0, self.max_batched_tokens - decodes)
        is_crowded = 2 * (prefills - 1) > decodes
        if not decodes or is_crowded or math.isinf(self._prefill_slowdown):
            return capacity
        decode_s = self._decode_s.get(decodes.bit_length())
        if decode_s is None or self._mixed_steps >= _FRESH_STEPS:
            return 0
        share = max(self._prefill_slowdown - 1.0, prefills / decodes)
        if self._prefill_s * capacity <= share * decode_s * self._prefill_tokens:
            return capacity
        tokens = int(share * decode_s * self._prefill_tokens / self._prefill_s)
        return min(capacity, max(_MIN_CHUNK_TOKENS, tokens))

    def observe(self, decodes: int, prefill_tokens: int, seconds: float) -> None:
        """Learn from a step; `seconds` from the end of the step before it."""
        known = self._decode_s.get(decodes.bit_length())
        if prefill_tokens:
            self._mixed_steps += decodes > 0
            excess = max(0.0, seconds - (known or 0.0))
            self._prefill_s = _DECAY * self._prefill_s + excess
            self._prefill_tokens = _DECAY * self._prefill_tokens + prefill_tokens
        elif decodes:
            self._mixed_steps = 0
            before = seconds if known is None else known
            # A step that something else delayed says little about the next ones.
            likely = min(seconds, _MAX_OUTLIER * before)
            size = decodes.bit_length()
            self._decode_s[size] = _DECAY * before + (1.0 - _DECAY) * likely
            average = self._decodes.get(size, float(decodes))
            self._decodes[size] = _DECAY * average + (1.0 - _DECAY) * decodes
