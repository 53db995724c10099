"""Drives the scheduler and the device: plan, execute, hand the tokens out, again.

device    | step 1 | step 2 | step 3 |        the tokens of step k are published while step k+1
publish        | 1      | 2      | 3          runs; step k+2 waits for them
"""

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from glm4v.errors import Glm4vError, InvalidRequest, Overloaded, RequestFailed
from glm4v.tensor_bytes import TensorBytes
from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import SequenceRequest, SequenceState
from lm_worker.parallel.ranks import Ranks
from lm_worker.plan import (
    NO_TOKEN,
    OutputFormat,
    PromptScore,
    SampledToken,
    StepPlan,
    after_header,
)
from lm_worker.step_timer import StepSeconds, StepTimer
from lm_worker.structured_output.grammar import GrammarCache

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """A token of one sequence, and whether it is the last; or that there is none, and why."""

    sequence_id: int
    request_id: str
    index: int
    sampled: SampledToken  # NO_TOKEN only with an error
    is_last: bool
    error: Glm4vError | None = None  # why the request ends, when the answer does not
    prompt_scores: tuple[PromptScore, ...] = ()  # with the first token, when they are wanted


OutputSink = Callable[[Sequence[TokenOutput]], Coroutine[Any, Any, set[int]]]


class Engine:
    """Continuous batching over one group of ranks.

    A request that is lost and comes back is another sequence, with an id of its own. `publish` is
    given every step's tokens and answers with the ids of sequences that are over for other reasons;
    those are removed at once.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        ranks: Ranks,
        publish: OutputSink,
        *,
        num_image_tokens: int,
        grammars: GrammarCache | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._ranks = ranks
        self._publish = publish
        self._num_image_tokens = num_image_tokens
        self._grammars = grammars
        self._numbers = itertools.count()
        self._sequences: dict[int, SequenceState] = {}
        self._images: Counter[str] = Counter()
        self._isolated: dict[int, asyncio.Event] = {}
        self._prompt_scores: dict[int, dict[int, PromptScore]] = {}  # by sequence, by index
        self._work = asyncio.Event()
        self._stopping = False
        self._watch = StepTimer()
        self._step_ended: float | None = None  # None when nothing was to do since

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to compute."""
        return not self._sequences

    @property
    def is_prefilling(self) -> bool:
        """Whether somebody waits for a first token, and not for room."""
        return self._scheduler.is_prefilling

    @property
    def has_capacity(self) -> bool:
        """Whether a request that came now would wait for its turn, not for room."""
        return self._scheduler.has_capacity

    @property
    def progress(self) -> int:
        """Grows while the device works: within a step too, with every layer."""
        return self._ranks.progress

    @property
    def seconds(self) -> StepSeconds:
        """Where the time of all steps so far went."""
        watch, sample = self._watch, self._ranks.sample_seconds
        return StepSeconds(watch["plan"], watch["execute"] - sample, sample, watch["publish"])

    async def add(
        self,
        request: SequenceRequest,
        token_ids: tuple[int, ...],
        image: TensorBytes | None,
        *,
        is_quarantined: bool = False,
    ) -> int:
        """Take a request in, with the tokens it has already; its sequence's id.

        Raises Overloaded if it never fits, InvalidRequest if its response format cannot be used.
        """
        sequence = SequenceState(
            next(self._numbers),
            request,
            self._num_image_tokens,
            token_ids,
            is_quarantined=is_quarantined,
        )
        if not self._scheduler.can_ever_run(sequence):
            pool = self._scheduler.pool
            raise Overloaded(
                f"the request may need {sequence.max_total_tokens} tokens of KV cache and the "
                f"worker has {pool.total * pool.block_size}; ask for fewer tokens, or raise "
                "GLM4V_KV_CACHE_BYTES"
            )
        if request.output_format is not None:
            answer = after_header(token_ids, request.header_id)
            await self._open_grammar(sequence.sequence_id, request.output_format, answer)
        if image is not None:
            self._images[request.image] += 1
            if self._images[request.image] == 1:
                with anyio.CancelScope(shield=True):  # others may count on it by now
                    await self._ranks.add_image(request.image, image)
        self._sequences[sequence.sequence_id] = sequence
        if is_quarantined:
            self._isolated[sequence.sequence_id] = asyncio.Event()
        self._scheduler.add(sequence)
        self._work.set()
        return sequence.sequence_id

    async def wait_isolated(self, sequence_id: int) -> None:
        """Wait until a quarantined has its token, or has left."""
        if sequence_id in self._isolated:
            await self._isolated[sequence_id].wait()

    async def remove(self, sequence_id: int) -> None:
        """Take a sequence out, if it is there; its blocks are free at once."""
        sequence = self._sequences.get(sequence_id)
        if sequence is not None:
            self._scheduler.remove(sequence)
            self._forget(sequence)
            await self._drop_image(sequence)

    def check_integrity(self) -> list[str]:
        """What is wrong with the cache; empty when every block is accounted for."""
        return self._scheduler.check_integrity()

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks of the cache: those that can be allocated, and all."""
        pool = self._scheduler.pool
        return pool.available, pool.total

    @property
    def waiting(self) -> int:
        """Requests that wait for room in the batch."""
        return self._scheduler.waiting

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return self._scheduler.running

    @property
    def preemptions(self) -> int:
        """Running requests whose blocks were taken for others so far."""
        return self._scheduler.preemptions

    def stop(self) -> None:
        """Let `run` return after the step in progress and the publication of its tokens."""
        self._stopping = True
        self._work.set()

    async def run(self) -> None:
        """Step until `stop`; an error of the device or of `publish` ends it."""
        publishing: asyncio.Task[set[int]] | None = None
        try:
            while not self._stopping or publishing is not None:
                self._work.clear()  # before the plan: what comes while we wait below is not in it
                with self._watch.time("plan"):
                    plan = None if self._stopping else self._scheduler.plan()
                tokens = [] if plan is None else await self._step(plan)
                if publishing is not None:
                    with self._watch.time("publish"):
                        refused = await publishing
                    for sequence_id in refused:
                        await self.remove(sequence_id)
                publishing = asyncio.create_task(self._publish(tokens)) if tokens else None
                if plan is None:
                    self._step_ended = None
                if plan is None and publishing is None and not self._stopping:
                    await self._work.wait()
        finally:
            if publishing is not None:
                publishing.cancel()

    async def _step(self, plan: StepPlan) -> list[TokenOutput]:
        start = time.perf_counter() if self._step_ended is None else self._step_ended
        with self._watch.time("execute"):
            result = await self._ranks.execute(plan)
        self._step_ended = time.perf_counter()
        with self._watch.time("plan"):
            # From end to end of steps: that is how long those who are being answered wait.
            grown = self._scheduler.apply(plan, result.tokens, self._step_ended - start)
        for score in result.prompt_scores:
            self._prompt_scores.setdefault(score.sequence_id, {})[score.prompt_index] = score
        tokens = []
        for sequence, token, is_last in grown:
            self._end_isolation(sequence.sequence_id)
            error = _failure(sequence, token)
            index = len(sequence.token_ids) - (token.token_id != NO_TOKEN)
            scores = self._prompt_scores.pop(sequence.sequence_id, {})
            tokens.append(
                TokenOutput(
                    sequence.sequence_id,
                    sequence.request.request_id,
                    index,
                    token,
                    is_last,
                    error,
                    tuple(scores.values()),
                )
            )
            if is_last:
                self._forget(sequence)
        # Not before all are forgotten: `remove` may be called while this waits for the device.
        for sequence, _, is_last in grown:
            if is_last:
                await self._drop_image(sequence)
        return tokens

    async def _open_grammar(
        self, number: int, form: OutputFormat, token_ids: tuple[int, ...]
    ) -> None:
        if self._grammars is None:
            raise InvalidRequest("response_format is not served here; leave it out")
        await self._grammars.open(number, form, token_ids)

    def _forget(self, sequence: SequenceState) -> None:
        """Know a sequence no more that the scheduler has let go."""
        del self._sequences[sequence.sequence_id]
        self._end_isolation(sequence.sequence_id)
        self._prompt_scores.pop(sequence.sequence_id, None)
        if self._grammars is not None:
            self._grammars.close(sequence.sequence_id)
        if sequence.request.image:
            self._images[sequence.request.image] -= 1

    async def _drop_image(self, sequence: SequenceState) -> None:
        """Free the image of a sequence that was forgotten, unless others have it."""
        digest = sequence.request.image
        if digest and self._images.get(digest) == 0:
            del self._images[digest]
            await self._ranks.drop_image(digest)

    def _end_isolation(self, sequence_id: int) -> None:
        if (over := self._isolated.pop(sequence_id, None)) is not None:
            over.set()


def _failure(sequence: SequenceState, token: SampledToken) -> Glm4vError | None:
    """Why a request ends that has no answer."""
    if token.token_id == NO_TOKEN:
        return RequestFailed(
            f"the scores of token {len(sequence.token_ids)} are not finite numbers; "
            "send the image again, or serve with another GLM4V_DTYPE"
        )
    return InvalidRequest(f"response_format: {token.failure}") if token.failure else None
