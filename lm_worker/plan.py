"""The values that the scheduler and the device exchange in one step.

All are immutable by convention. `SamplingState` and `Chunk` are not frozen dataclasses, because
those take four times as long to create and a step creates one of each for every sequence.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

NO_TOKEN = -1  # instead of a token id: the logits were not finite


class OutputFormat(NamedTuple):
    """The response format of a request."""

    kind: Literal["json_schema", "regex", "choice"]
    text: str  # of "choice": a JSON list of strings


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of a request; docs/sampling.md has the order they apply in."""

    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0  # 1 is off
    repetition_penalty: float = 1.0  # 1 is off
    seed: int = 0
    want_logprobs: bool = False
    top_logprobs: int = 0
    typical_p: float = 1.0  # 1 is off
    min_p: float = 0.0  # 0 is off
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # token ids and what is added to their logits

    @property
    def penalizes_output(self) -> bool:
        """Whether logits depend on the output so far."""
        return self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


@dataclass(slots=True)
class SamplingState:
    """How to sample the token after a chunk; complete, so samplers keep no state."""

    params: SamplingParams
    index: int  # of the token in the output; the counter of its random numbers
    penalized_ids: tuple[int, ...] = ()  # distinct ids the repetition penalty applies to
    output_ids: tuple[int, ...] = ()  # the output so far; empty if no parameter depends on it
    forbidden_ids: tuple[int, ...] = ()  # never sampled: stop ids before min_tokens
    grammar: int | None = None  # id of the matcher in `GrammarCache`
    # Allowed only where the grammar is complete; the header's token is none of them.
    stop_ids: tuple[int, ...] = ()
    header_id: int = NO_TOKEN  # first token of the output, before the grammar
    most_forced: int = 0  # tokens that may follow unsampled, as the grammar allows no others

    @property
    def is_plain(self) -> bool:
        """Whether no logit processor applies."""
        params = self.params
        return (
            params.repetition_penalty == 1.0
            and not params.penalizes_output
            and not (params.logit_bias or self.forbidden_ids)
            and self.grammar is None
        )


def after_header(token_ids: tuple[int, ...], header_id: int) -> tuple[int, ...]:
    """The output without the token that ends the turn's header: what a grammar describes."""
    return token_ids[1:] if token_ids[:1] == (header_id,) else token_ids


class PromptScoring(NamedTuple):
    """Prompt tokens, predicted within one chunk, whose log-probabilities are requested."""

    offsets: tuple[int, ...]  # in the chunk, of the tokens that predict them
    indices: tuple[int, ...]  # in the prompt
    token_ids: tuple[int, ...]
    top: int  # number of most probable tokens to report for each


@dataclass(slots=True)
class Chunk:
    """The tokens that one sequence computes in a step, from index `context_len` on."""

    sequence_id: int
    token_ids: tuple[int, ...]  # a token id, or -1-k for row k of the image embedding
    positions: tuple[int, ...]  # rotary positions
    context_len: int  # tokens of this sequence already in the cache
    block_table: tuple[int, ...]  # covers at least context_len + len(token_ids) tokens
    image: str  # digest, empty without one
    sampling: SamplingState | None  # None: not the end of the prefill
    scoring: PromptScoring | None = None  # None: no prompt log-probabilities
    # How to sample the token after each draft; the drafts are the last of `token_ids`.
    drafts: tuple[SamplingState, ...] = ()

    @property
    def num_sampled(self) -> int:
        """Tokens whose logits are sampled: the last known one and the drafts after it."""
        return 0 if self.sampling is None else 1 + len(self.drafts)


class BlockCopy(NamedTuple):
    """The first tokens of a block of the KV cache, which another one takes over."""

    source: int
    target: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass."""

    number: int
    chunks: tuple[Chunk, ...]
    released: tuple[int, ...] = ()  # sequences that released their blocks since the last plan
    copies: tuple[BlockCopy, ...] = ()  # made in this order, before the step writes anything


class SampledToken(NamedTuple):
    """A token of one chunk."""

    token_id: int  # or NO_TOKEN
    logprob: float | None = None  # before temperature and penalties; None if not requested
    top: tuple[tuple[int, float], ...] = ()  # most probable ids with their logprobs, best first
    is_complete: bool = False  # the grammar allows nothing more: the output ends here
    failure: str = ""  # why no token can follow; the request fails with it
    is_forced: bool = False  # not sampled, and not computed yet: the grammar allows no other


class PromptLogprob(NamedTuple):
    """The log-probability of one prompt token."""

    sequence_id: int
    prompt_index: int
    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # most probable ids with their logprobs, best first


class StepResult(NamedTuple):
    """The result of a step."""

    # For each chunk that samples, in the plan's order: one, one for each draft that was right, and
    # those that the grammar forces after them.
    tokens: tuple[tuple[SampledToken, ...], ...]
    prompt_logprobs: tuple[PromptLogprob, ...] = ()
