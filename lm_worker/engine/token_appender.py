"""Appends the tokens of a step to their sequences, with all that they tell of them."""

from collections.abc import Sequence

from lm_worker.engine.counts import Counts
from lm_worker.engine.prefix_cache import PrefixCache
from lm_worker.engine.sequence import SequenceState, TokenOutput
from lm_worker.plan import NO_TOKEN, SampledToken


class TokenAppender:
    """Appends to running sequences, and lets later ones find what is in `cache` of them."""

    def __init__(self, cache: PrefixCache, counts: Counts, *, block_size: int) -> None:
        self._cache = cache
        self._counts = counts
        self._block_size = block_size

    def append(
        self, sequence: SequenceState, num_drafts: int, tokens: Sequence[SampledToken]
    ) -> list[TokenOutput]:
        """Append a step's tokens, until the last of the output; `num_drafts` were computed."""
        outputs: list[TokenOutput] = []
        sequence.num_forced = 0
        expected: list[int] = []
        if sequence.request.sampling.want_logprobs:  # they need logits: the next step's drafts
            expected = [token.token_id for token in tokens if token.is_forced]
            tokens = tokens[: len(tokens) - len(expected)]
        for token in tokens:
            if token.is_forced:
                sequence.num_forced += 1
            else:
                # A right draft was computed: it is the token before this one.
                sequence.num_computed_tokens += bool(outputs)
            outputs.append(self._append_one(sequence, token))
            if outputs[-1].is_last:
                break
        forced = sum(output.sampled.is_forced for output in outputs)
        self._counts.forced_tokens += forced
        if num_drafts:
            self._counts.drafts += 1
            self._counts.draft_tokens += num_drafts
            self._counts.accepted_tokens += len(outputs) - forced - 1
        if sequence.drafter is not None:
            sequence.drafter.observe(forced)
            sequence.drafter.expect(expected)
        return outputs

    def _append_one(self, sequence: SequenceState, token: SampledToken) -> TokenOutput:
        index = len(sequence.token_ids)
        if token.token_id == NO_TOKEN:
            # Any of its blocks may hold non-finite values; no other request may reuse them.
            self._cache.forget(sequence)
        else:
            if not token.is_forced:
                # Finite logits prove that its blocks are sound: they depend on all of them.
                sequence.num_sound_tokens = sequence.num_computed_tokens
                if sequence.tokens_to_cache(self._block_size) > sequence.num_cached_tokens:
                    self._cache.keep(sequence)
            sequence.add_token(token.token_id)
            self._counts.sampled_tokens += 1
        is_last = (
            token.token_id == NO_TOKEN
            or token.is_complete
            or bool(token.failure)
            or sequence.is_over()
        )
        return TokenOutput(
            sequence.sequence_id,
            sequence.request.request_id,
            index,
            token,
            is_last,
            sequence.is_urgent(index),
        )
