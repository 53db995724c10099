"""One request inside the engine: its tokens, their positions, and its part of the KV cache.

    prompt ids      t t t [boi][img][eoi] t t t          n ids, the image's 3 from index p on
    tokens          t t t  -1  -2 ... -R  t t t o o o    n + R - 3 tokens, then the output
    positions       0 .. p  p+1 (all patches)  p+2 ..    index - (R - 3) after the image

All patches of an image share one rotary position, so a token's position differs from its index.

Source of the positions: modeling_chatglm.py of THUDM/glm-4v-9b.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from glm4v.errors import Glm4vError, InvalidRequest, RequestFailed
from lm_worker.engine.drafts import Drafter
from lm_worker.engine.prefix import Prefix
from lm_worker.plan import (
    NO_TOKEN,
    Chunk,
    OutputFormat,
    PromptLogprob,
    PromptScoring,
    SampledToken,
    SamplingParams,
    SamplingState,
)

PRIORITIES = range(1, 6)  # 1 is the most urgent


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """A request to the engine."""

    request_id: str
    prompt_ids: tuple[int, ...]
    image: str  # digest, empty without one
    image_offset: int  # index of boi in prompt_ids, -1 without an image
    max_tokens: int
    stop_ids: frozenset[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 3  # one of PRIORITIES
    client: str = ""  # requests of one client share its part of the engine
    cache_salt: str = ""  # requests share cached blocks only within one salt
    min_tokens: int = 0  # no stop id is sampled before
    output_format: OutputFormat | None = None  # None: free text
    prompt_logprobs: int | None = None  # alternatives per prompt token; None: off
    header_id: int = NO_TOKEN  # ends the turn's header; as first token no stop id, no format


@dataclass(slots=True)  # not frozen, as in `plan`: a step creates one for every sequence
class TokenOutput:
    """One step's token of a sequence, or the error that ends the request."""

    sequence_id: int
    request_id: str
    index: int  # of the token in the output
    sampled: SampledToken  # NO_TOKEN only with an error
    is_last: bool
    is_urgent: bool = False  # somebody waits for it: the first token, or the first of the text
    prompt_logprobs: tuple[PromptLogprob, ...] = ()  # with the first token, if requested

    @property
    def error(self) -> Glm4vError | None:
        """Why the request fails; None if it does not."""
        if self.sampled.token_id == NO_TOKEN:
            return RequestFailed(
                f"the model produced non-finite logits at token {self.index}; send the image "
                "again, or try another GLM4V_DTYPE"
            )
        failure = self.sampled.failure
        return InvalidRequest(f"response_format: {failure}") if failure else None


class SequenceState:
    """The state of one request; mutable, owned by the scheduler."""

    def __init__(
        self,
        sequence_id: int,
        request: SequenceRequest,
        num_image_tokens: int,
        token_ids: tuple[int, ...],
        *,
        is_quarantined: bool = False,
    ) -> None:
        self.sequence_id = sequence_id
        self.request = request
        self.token_ids = list(token_ids)
        # The first that is computed here; a new answer's may only end its header.
        self._last_urgent = len(token_ids) or int(request.header_id != NO_TOKEN)
        self.is_quarantined = is_quarantined  # runs in a batch of its own for one token
        self.sort_key = (0, sequence_id)  # scheduling order; set by the scheduler
        self.decoded_at = 0  # the last step with a decode of it; set by the scheduler
        self.block_table: tuple[int, ...] = ()
        self.capacity = 0  # tokens that its blocks hold
        self.num_computed_tokens = 0  # tokens in the KV cache
        self.num_sound_tokens = 0  # those of them that logits have shown to be finite
        self.num_cached_tokens = 0  # those that the prefix cache was given
        self._num_start_tokens = 0  # known when it got its blocks
        self._image_offset = request.image_offset
        self._extra = 0 if self._image_offset < 0 else num_image_tokens - 3
        self._tokens = self._expand(num_image_tokens)
        self._prompt_tokens = len(self._tokens)
        self._tokens.extend(token_ids)
        self.prefix = Prefix(self._tokens, request.image, request.cache_salt)
        self._params = request.sampling
        self._stops = tuple(sorted(request.stop_ids))
        self._first_stops = tuple(sorted(request.stop_ids - {request.header_id}))
        self._penalized_ids = dict.fromkeys((*request.prompt_ids, *token_ids))  # as an ordered set
        self.drafter: Drafter | None = None  # set by the scheduler, if there are drafts
        self.most_forced = 0  # at once; set by the scheduler
        self.num_forced = 0  # known tokens behind the last one that was sampled or computed

    def _expand(self, num_image_tokens: int) -> "array[int]":
        prompt = array("q", self.request.prompt_ids)
        if self._image_offset < 0:
            return prompt
        image = array("q", range(-1, -1 - num_image_tokens, -1))
        return prompt[: self._image_offset] + image + prompt[self._image_offset + 3 :]

    @property
    def tokens(self) -> Sequence[int]:
        """Prompt and output so far, which grow; negative for those of an image."""
        return self._tokens

    @property
    def num_known_tokens(self) -> int:
        """Tokens of the prompt and of the output so far."""
        return len(self._tokens)

    @property
    def max_total_tokens(self) -> int:
        """Most tokens the request needs in the cache: its last token is never fed back."""
        return self.num_known_tokens + max(0, self.num_tokens_left - 1)

    @property
    def num_tokens_left(self) -> int:
        """Most tokens that the output may still get."""
        return self.request.max_tokens - len(self.token_ids)

    @property
    def num_uncomputed_tokens(self) -> int:
        """Known tokens that are not in the cache."""
        return len(self._tokens) - self.num_computed_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether the last sampled token, or forced ones after it, are all that is uncomputed."""
        return self.num_uncomputed_tokens <= 1 + self.num_forced

    def take_blocks(
        self, blocks: list[int], block_size: int, *, num_cached_tokens: int, num_copied_tokens: int
    ) -> None:
        """Start with blocks that have the first tokens: cached blocks, then a part of one."""
        self.add_blocks(blocks, block_size)
        self.num_cached_tokens = num_cached_tokens
        self.num_computed_tokens = self.num_sound_tokens = num_cached_tokens + num_copied_tokens
        self._num_start_tokens = self.num_known_tokens

    def tokens_to_cache(self, block_size: int) -> int:
        """Tokens that the prefix cache has after its next token: all at first, then full blocks."""
        known = self.num_known_tokens
        is_prefill = self.num_cached_tokens < self._num_start_tokens
        return known if is_prefill else known // block_size * block_size

    def add_blocks(self, blocks: list[int], block_size: int) -> None:
        """Append blocks of `block_size` tokens each."""
        self.block_table += tuple(blocks)
        self.capacity = len(self.block_table) * block_size

    def release_blocks(self) -> None:
        """Clear the block table: no token is in the cache."""
        self.block_table = ()
        self.capacity = 0
        self.num_computed_tokens = self.num_sound_tokens = self.num_cached_tokens = 0
        self.num_forced = 0

    def chunk(self, num_tokens: int) -> Chunk:
        """The next `num_tokens` tokens; samples if they include the last known one."""
        start = self.num_computed_tokens
        end = start + num_tokens
        if end == len(self._tokens) and num_tokens == 1 and not self.scores_prompt:
            return self.decode_chunk()
        return Chunk(
            self.sequence_id,
            self.input_ids(start, end),
            self.positions(start, end),
            start,
            self.block_table,
            self.request.image,
            self.sampling_state() if end == len(self._tokens) else None,
            self._scoring(start, end) if self.scores_prompt else None,
        )

    def decode_chunk(self, drafts: tuple[int, ...] = ()) -> Chunk:
        """The uncomputed tokens of a decode, none of an image, and drafts of the next ones."""
        index = self.num_computed_tokens
        token_ids = (*self._tokens[index:], *drafts)
        position = index - self._extra
        return Chunk(
            self.sequence_id,
            token_ids,
            tuple(range(position, position + len(token_ids))),
            index,
            self.block_table,
            self.request.image,
            self.sampling_state(),
            drafts=tuple(self.sampling_state(drafts[:count]) for count in range(1, len(drafts) + 1))
            if drafts
            else (),
        )

    @property
    def scores_prompt(self) -> bool:
        """Whether prompt log-probabilities are still to be computed: until the first token."""
        return self.request.prompt_logprobs is not None and not self.token_ids

    def _scoring(self, start: int, end: int) -> PromptScoring:
        """The prompt tokens predicted by tokens [start, end); image tokens have no prediction."""
        scored = [
            (at - start, at + 1 if at < self._image_offset else at + 1 - self._extra, token_id)
            for at in range(start, min(end, self._prompt_tokens - 1))
            if (token_id := self._tokens[at + 1]) >= 0
        ]
        offsets, indices, token_ids = zip(*scored, strict=True) if scored else ((), (), ())
        top = self.request.prompt_logprobs
        assert top is not None
        return PromptScoring(offsets, indices, token_ids, top)

    def input_ids(self, start: int, end: int) -> tuple[int, ...]:
        """Tokens [start, end): an id, or -1-k for row k of the image embedding."""
        return tuple(self._tokens[start:end])

    def positions(self, start: int, end: int) -> tuple[int, ...]:
        """Rotary positions of tokens [start, end)."""
        if self._image_offset < 0:
            return tuple(range(start, end))
        patches, eoi = self._image_offset + 1, self._image_offset + 2 + self._extra
        if start >= eoi:
            return tuple(range(start - self._extra, end - self._extra))
        return tuple(
            at if at <= self._image_offset else patches if at < eoi else at - self._extra
            for at in range(start, end)
        )

    def sampling_state(self, drafts: tuple[int, ...] = ()) -> SamplingState:
        """How to sample the token after the output and `drafts`.

        Fields that no parameter needs stay empty.
        """
        request, params, index = self.request, self._params, len(self.token_ids) + len(drafts)
        has_format = request.output_format is not None
        stops = self._stops if index else self._first_stops
        return SamplingState(
            params,
            index,
            self._penalized_with(drafts) if params.repetition_penalty != 1.0 else (),
            (*self.token_ids, *drafts) if has_format or params.penalizes_output else (),
            stops if index < request.min_tokens else (),
            self.sequence_id if has_format else None,
            self._stops if has_format else (),
            request.header_id if has_format else NO_TOKEN,
            self.most_forced if has_format else 0,
        )

    def _penalized_with(self, drafts: tuple[int, ...]) -> tuple[int, ...]:
        new = dict.fromkeys(token_id for token_id in drafts if token_id not in self._penalized_ids)
        return (*self._penalized_ids, *new)

    def add_token(self, token_id: int) -> None:
        """Append a token to the output."""
        self.token_ids.append(token_id)
        self._tokens.append(token_id)
        self._penalized_ids[token_id] = None

    def is_urgent(self, index: int) -> bool:
        """Whether nothing after the header was output here before this token."""
        return index <= self._last_urgent

    def is_over(self) -> bool:
        """Whether the output is complete."""
        if not self.token_ids:
            return False
        stops = self._stops if len(self.token_ids) > 1 else self._first_stops
        return self.token_ids[-1] in stops or len(self.token_ids) >= self.request.max_tokens

    @property
    def num_cacheable_tokens(self) -> int:
        """Tokens that the prefix cache may give it at its start.

        The last token is always computed, for its logits; for prompt log-probabilities all are.
        """
        return 0 if self.scores_prompt else self.num_known_tokens - 1
