"""One request inside the engine: its rows, their positions, and how far the cache has them.

    prompt ids      t t t [boi][img][eoi] t t t          n ids, the image's 3 from index p on
    rows            t t t  -1  -2 ... -R  t t t a a a    n + R - 3 rows, then the answer's tokens
    positions       0 .. p  p+1 (all patches)  p+2 ..    row - (R - 3) behind the image

Source of the positions: modeling_chatglm.py of THUDM/glm-4v-9b.
"""

from array import array
from dataclasses import dataclass
from hashlib import blake2b

from lm_worker.plan import (
    NO_TOKEN,
    Chunk,
    OutputFormat,
    PromptScoring,
    SamplingParams,
    SamplingState,
)

PRIORITIES = range(1, 6)  # 1 is the most urgent


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """What is asked of the engine."""

    request_id: str
    prompt_ids: tuple[int, ...]
    image: str  # digest, empty without one
    image_offset: int  # index of boi in prompt_ids, -1 without an image
    max_tokens: int
    stop_ids: frozenset[int]
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int
    want_logprobs: bool = False
    top_logprobs: int = 0
    priority: int = 3  # one of PRIORITIES
    cache_salt: str = ""  # cached rows are shared among requests of one salt only
    min_tokens: int = 0  # none of stop_ids is drawn before
    form: OutputFormat | None = None  # None: free
    typical_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    prompt_logprobs: int | None = None  # rivals to report of each token of the prompt; None: none
    header_id: int = NO_TOKEN  # ends the turn's header: as first token before a form, and no stop

    def rules(self) -> SamplingParams:
        """What is asked of every choice."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            want_logprobs=self.want_logprobs,
            top_logprobs=self.top_logprobs,
            typical_p=self.typical_p,
            min_p=self.min_p,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=self.logit_bias,
        )


class Sequence:
    """Rows of one request; mutable, owned by the scheduler."""

    def __init__(
        self,
        number: int,
        request: SequenceRequest,
        num_image_tokens: int,
        token_ids: tuple[int, ...],
        *,
        is_suspect: bool = False,
    ) -> None:
        self.number = number
        self.request = request
        self.token_ids = list(token_ids)
        self.is_suspect = is_suspect  # a worker died with it: steps of its own, for one token
        self.turn = (0, number)  # order among all; set by the scheduler
        self.block_table: tuple[int, ...] = ()
        self.room = 0  # rows that its blocks hold
        self.computed = 0  # rows in the cache
        self.remembered = 0  # full blocks that the pool knows by hash
        self._slot = request.image_offset
        self._extra = 0 if self._slot < 0 else num_image_tokens - 3
        self._rows = self._expand(num_image_tokens)
        self._prompt_tokens = len(self._rows)
        self._rows.extend(token_ids)
        self._hashes: list[bytes] = []
        self._rules = request.rules()
        self._stops = tuple(sorted(request.stop_ids))
        self._first_stops = tuple(sorted(request.stop_ids - {request.header_id}))
        self._seen = dict.fromkeys((*request.prompt_ids, *token_ids))  # as an ordered set

    def _expand(self, num_image_tokens: int) -> "array[int]":
        prompt = array("q", self.request.prompt_ids)
        if self._slot < 0:
            return prompt
        image = array("q", range(-1, -1 - num_image_tokens, -1))
        return prompt[: self._slot] + image + prompt[self._slot + 3 :]

    @property
    def row_count(self) -> int:
        """Rows that are known: the prompt's and the answer's so far."""
        return len(self._rows)

    @property
    def max_total_tokens(self) -> int:
        """Rows the request can come to: the last token is never fed back."""
        left = self.request.max_tokens - len(self.token_ids)
        return self.row_count + max(0, left - 1)

    @property
    def remaining(self) -> int:
        """Known rows that are not in the cache."""
        return len(self._rows) - self.computed

    def hold(self, blocks: list[int], block_size: int) -> None:
        """Take more blocks of `block_size` rows each."""
        self.block_table += tuple(blocks)
        self.room = len(self.block_table) * block_size

    def release_blocks(self) -> None:
        """Forget the blocks: no row is in the cache."""
        self.block_table = ()
        self.room = self.computed = self.remembered = 0

    def chunk(self, rows: int) -> Chunk:
        """The next `rows` rows to compute; a token is asked for when they are the last known."""
        start = self.computed
        end = start + rows
        if end == len(self._rows) and rows == 1 and not self.scores_prompt:
            return self.last_row()
        return Chunk(
            self.number,
            self.input_ids(start, end),
            self.positions(start, end),
            start,
            self.block_table,
            self.request.image,
            self.sample_spec() if end == len(self._rows) else None,
            self._scoring(start, end) if self.scores_prompt else None,
        )

    def last_row(self) -> Chunk:
        """The last known row, which is never one of an image: what a decode computes."""
        row = self.computed
        return Chunk(
            self.number,
            (self._rows[row],),
            (row - self._extra,),
            row,
            self.block_table,
            self.request.image,
            self.sample_spec(),
        )

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's rows are computed for their scores too: up to the first token."""
        return self.request.prompt_logprobs is not None and not self.token_ids

    def _scoring(self, start: int, end: int) -> PromptScoring:
        """The prompt's tokens behind rows [start, end); nothing predicts those of an image."""
        scored = [
            (row - start, row + 1 if row < self._slot else row + 1 - self._extra, token_id)
            for row in range(start, min(end, self._prompt_tokens - 1))
            if (token_id := self._rows[row + 1]) >= 0
        ]
        rows, indices, token_ids = zip(*scored, strict=True) if scored else ((), (), ())
        top = self.request.prompt_logprobs
        assert top is not None
        return PromptScoring(rows, indices, token_ids, top)

    def input_ids(self, start: int, end: int) -> tuple[int, ...]:
        """Rows [start, end): a token id, or -1-k for row k of the image."""
        return tuple(self._rows[start:end])

    def positions(self, start: int, end: int) -> tuple[int, ...]:
        """Rotary positions of rows [start, end)."""
        if self._slot < 0:
            return tuple(range(start, end))
        first, behind = self._slot + 1, self._slot + 2 + self._extra  # patches, eoi
        if start >= behind:
            return tuple(range(start - self._extra, end - self._extra))
        return tuple(
            row if row <= self._slot else first if row < behind else row - self._extra
            for row in range(start, end)
        )

    def sample_spec(self) -> SamplingState:
        """How the next token is chosen; what no rule asks for is left out, to cost nothing."""
        request, rules, index = self.request, self._rules, len(self.token_ids)
        follows = request.form is not None
        stops = self._stops if index else self._first_stops
        return SamplingState(
            rules,
            index,
            tuple(self._seen) if rules.repetition_penalty != 1.0 else (),
            tuple(self.token_ids) if follows or rules.counts_answer else (),
            stops if index < request.min_tokens else (),
            self.number if follows else None,
            stops if follows else (),
            request.header_id if follows else NO_TOKEN,
        )

    def add_token(self, token_id: int) -> None:
        """One more token of the answer."""
        self.token_ids.append(token_id)
        self._rows.append(token_id)
        self._seen[token_id] = None

    def is_over(self) -> bool:
        """Whether the last token ends the answer."""
        if not self.token_ids:
            return False
        stops = self._stops if len(self.token_ids) > 1 else self._first_stops
        return self.token_ids[-1] in stops or len(self.token_ids) >= self.request.max_tokens

    def block_hashes(self, block_size: int, blocks: int) -> list[bytes]:
        """Hashes of the first `blocks` full blocks, each over its rows and all before them.

        Rows of an image carry its digest: every image has the same row ids. The first hash
        builds on the request's salt.
        """
        while len(self._hashes) < blocks:
            start = len(self._hashes) * block_size
            rows = self._rows[start : start + block_size]
            assert len(rows) == block_size, "only full blocks have a hash"
            before = self._hashes[-1] if self._hashes else self._salt()
            digest = blake2b(before, digest_size=16)
            digest.update(rows.tobytes())
            if any(row < 0 for row in rows):
                digest.update(self.request.image.encode())
            self._hashes.append(digest.digest())
        return self._hashes[:blocks]

    def image_hash(self, block_size: int) -> bytes | None:
        """The hash of the last full block before the image's end; None without an image."""
        full = (self._slot + 3 + self._extra) // block_size
        return self.block_hashes(block_size, full)[-1] if self._slot >= 0 and full else None

    def _salt(self) -> bytes:
        return blake2b(self.request.cache_salt.encode(), digest_size=16).digest()
