"""What scheduler and device tell each other in one step: plain values, fit to be sent.

None is changed once it is made. `SamplingState` and `Chunk` are not declared frozen all the same:
that would make them four times as slow to make, and a step makes one of each for every sequence.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

NO_TOKEN = -1  # in place of a token id: the logits were not numbers


class OutputFormat(NamedTuple):
    """What an answer has to look like."""

    kind: Literal["json_schema", "regex", "choice"]
    text: str  # of "choice": a JSON list of strings


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """What a request asks of every choice; docs/sampling.md has the order they apply in."""

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
    logit_bias: tuple[tuple[int, float], ...] = ()  # ids and what is added to their logits

    @property
    def counts_answer(self) -> bool:
        """Whether the answer's tokens matter."""
        return self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


@dataclass(slots=True)
class SamplingState:
    """How the token after a chunk's last row is chosen; complete, so samplers keep no state."""

    rules: SamplingParams
    index: int  # of the token in the answer: the counter of its draw
    seen: tuple[int, ...] = ()  # distinct ids the repetition penalty applies to
    answer: tuple[int, ...] = ()  # its tokens; empty when nothing here depends on them
    banned: tuple[int, ...] = ()  # ids that cannot be drawn: the stops of an answer too short
    grammar: int | None = None  # the open matcher the answer has to follow; see `GrammarCache`
    stops: tuple[int, ...] = ()  # ids allowed only where that grammar is complete
    header_id: int = NO_TOKEN  # the token the answer begins with, before what the grammar describes

    @property
    def is_plain(self) -> bool:
        """Whether the logits are taken as they are."""
        rules = self.rules
        return (
            rules.repetition_penalty == 1.0
            and not rules.counts_answer
            and not (rules.logit_bias or self.banned)
            and self.grammar is None
        )


def behind_header(token_ids: tuple[int, ...], header_id: int) -> tuple[int, ...]:
    """What a grammar describes of an answer: all but the end of the turn's header."""
    return token_ids[1:] if token_ids[:1] == (header_id,) else token_ids


class PromptScoring(NamedTuple):
    """Tokens of a prompt whose log-probabilities are wanted, all predicted within one chunk."""

    rows: tuple[int, ...]  # that predict them, counted from the chunk's first
    indices: tuple[int, ...]  # of the tokens in the prompt
    token_ids: tuple[int, ...]
    top: int  # most probable tokens to report beside each


@dataclass(slots=True)
class Chunk:
    """The rows one sequence computes in a step, from `context_len` on."""

    sequence_id: int
    token_ids: tuple[int, ...]  # a token id, or -1-k for row k of the image
    positions: tuple[int, ...]  # rotary positions
    context_len: int  # rows of this sequence that are in the cache already
    block_table: tuple[
        int, ...
    ]  # cache blocks, covering at least context_len + len(token_ids) rows
    image: str  # digest, empty without one
    sample: SamplingState | None  # None: an inner chunk of a prefill
    scoring: PromptScoring | None = None  # None: the prompt's log-probabilities are not wanted


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass."""

    number: int
    chunks: tuple[Chunk, ...]

    @property
    def row_count(self) -> int:
        """Rows computed in this step."""
        return sum(len(chunk.token_ids) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The choice for one chunk that asked for one."""

    sequence_id: int
    token_id: int  # or NO_TOKEN
    logprob: float | None  # before temperature and penalties; None when not wanted
    top: tuple[tuple[int, float], ...]  # most probable ids with their logprobs, best first
    is_complete: bool = False  # nothing can follow under the grammar: the answer ends here
    failure: str = ""  # why nothing can be chosen after this one; the request ends with it


class PromptScore(NamedTuple):
    """What the model thought of one token of a prompt."""

    sequence_id: int
    prompt_index: int
    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # most probable ids with their logprobs, best first


class StepResult(NamedTuple):
    """What a step brought."""

    tokens: tuple[SampledToken, ...]  # one for each chunk that asked for one, in the plan's order
    prompt_scores: tuple[PromptScore, ...] = ()
