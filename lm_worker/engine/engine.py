"""Drives the scheduler and the ranks: plan, execute, publish, again.

device    | step 1 | step 2 | step 3 |        output is published while later steps run, that of
publish        | 1      | 2      | 3          short steps in one piece (`Publications`)
"""

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import anyio

from glm4v.device.arbiter import Arbiter
from glm4v.errors import Overloaded
from glm4v.tensor_bytes import TensorBytes
from lm_worker.engine.counts import Counts
from lm_worker.engine.publications import OutputSink, Publications
from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import SequenceRequest, SequenceState, TokenOutput
from lm_worker.parallel.ranks import Ranks
from lm_worker.plan import PromptLogprob, StepPlan, after_header
from lm_worker.step_timer import StepSeconds, StepTimer
from lm_worker.structured_output.grammar_cache import GrammarCache

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 0.2  # of running answers, for an image on the same cores
_POLL_S = 0.005  # while an image is encoded


class Engine:
    """Continuous batching over one group of ranks.

    `arbiter` knows of images that are encoded on the same hardware.
    A request whose lease was lost and regained is added again, as a sequence with a new id.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        ranks: Ranks,
        sink: OutputSink,
        *,
        num_image_tokens: int,
        grammars: GrammarCache,
        arbiter: Arbiter,
        publish_interval_s: float,
    ) -> None:
        self.scheduler = scheduler
        self.ranks = ranks
        self._publications = Publications(sink, publish_interval_s)
        self._num_image_tokens = num_image_tokens
        self._grammars = grammars
        self._arbiter = arbiter
        self._ids = itertools.count()
        self._sequences: dict[int, SequenceState] = {}
        self._images: Counter[str] = Counter()
        self._isolated: dict[int, asyncio.Event] = {}
        self._joins: set[asyncio.Future[None]] = set()  # sequences that are being added
        self._prompt_logprobs: dict[int, dict[int, PromptLogprob]] = {}  # by sequence, index
        self._work = asyncio.Event()
        self._step_done = asyncio.Event()
        self._stopping = False
        self._timer = StepTimer()
        self._step_ended: float | None = None  # None after an idle period

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to compute."""
        return not self._sequences

    @property
    def is_prefilling(self) -> bool:
        """Whether the next steps contain prefills."""
        return self.scheduler.is_prefilling

    @property
    def has_capacity(self) -> bool:
        """Whether this worker should claim more requests."""
        return self.scheduler.has_capacity

    @property
    def progress(self) -> int:
        """Grows while the device works, within a step too: layers computed so far."""
        return self.ranks.progress

    @property
    def seconds(self) -> StepSeconds:
        """Total time of all steps so far, by part."""
        timer, sample = self._timer, self.ranks.sample_seconds
        return StepSeconds(timer["plan"], timer["execute"] - sample, sample, timer["publish"])

    @property
    def blocks(self) -> tuple[int, int]:
        """KV-cache blocks: available ones, and all."""
        pool = self.scheduler.pool
        return pool.available, pool.total

    @property
    def waiting(self) -> int:
        """Waiting sequences."""
        return self.scheduler.waiting

    @property
    def running(self) -> int:
        """Running sequences."""
        return self.scheduler.running

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        return self.scheduler.counts

    def check_integrity(self) -> list[str]:
        """Inconsistencies of the KV cache; empty if every block is accounted for."""
        return self.scheduler.check_integrity()

    async def start(self) -> None:
        """Load the weights; raises CheckpointError, Unavailable, Overloaded."""
        await self.ranks.start()

    def close(self) -> bool:
        """Stop the ranks and the grammar compiler; returns whether other ranks were told to stop.

        Blocks until the command in progress ends, for the rank timeout at most.
        """
        told = self.ranks.close()
        self._grammars.close_compiler()
        return told

    async def add(
        self,
        request: SequenceRequest,
        token_ids: tuple[int, ...],
        image: TensorBytes | None,
        *,
        is_quarantined: bool = False,
    ) -> int:
        """Add a request that has the output `token_ids` so far; returns its sequence id.

        Raises Overloaded if it can never fit the cache, InvalidRequest if its response format
        cannot be compiled.
        """
        sequence = SequenceState(
            next(self._ids),
            request,
            self._num_image_tokens,
            token_ids,
            is_quarantined=is_quarantined,
        )
        sequence_id = sequence.sequence_id
        if not self.scheduler.can_ever_run(sequence):
            pool = self.scheduler.pool
            raise Overloaded(
                f"the request may need {sequence.max_total_tokens} tokens of KV cache, the worker "
                f"has {pool.total * pool.block_size}; request fewer tokens, or raise "
                "GLM4V_KV_CACHE_BYTES"
            )
        if request.output_format is not None:
            output = after_header(token_ids, request.header_id)
            await self._grammars.compile_for(
                sequence_id, request.output_format, output, tuple(request.stop_ids)
            )
        with self._joining():
            if image is not None:
                self._images[request.image] += 1
                if self._images[request.image] == 1:
                    with anyio.CancelScope(shield=True):  # other requests may rely on it already
                        await self.ranks.add_image(request.image, image)
            self._sequences[sequence_id] = sequence
            if is_quarantined:
                self._isolated[sequence_id] = asyncio.Event()
            self.scheduler.add(sequence)
            self._work.set()
        return sequence_id

    @contextmanager
    def _joining(self) -> Iterator[None]:
        """A sequence is being added: the next step is planned once it has been.

        Its image is in the device's queue, so that the step would start no earlier without it.
        """
        joined = asyncio.get_running_loop().create_future()
        self._joins.add(joined)
        try:
            yield
        finally:
            self._joins.discard(joined)
            joined.set_result(None)

    async def wait_isolated(self, sequence_id: int) -> None:
        """Wait until a quarantined sequence has its next token, or was removed."""
        if sequence_id in self._isolated:
            await self._isolated[sequence_id].wait()

    async def wait_step(self) -> None:
        """Wait for the end of the current or next step."""
        await self._step_done.wait()

    async def remove(self, sequence_id: int) -> None:
        """Remove a sequence if it is still known, and release its blocks."""
        sequence = self._sequences.get(sequence_id)
        if sequence is not None:
            self.scheduler.remove(sequence)
            self._forget(sequence_id)
            await self._drop_image(sequence)

    def stop(self) -> None:
        """Let `run` return after the step in progress and the publication of its tokens."""
        self._stopping = True
        self._work.set()

    async def run(self) -> None:
        """Execute steps until `stop`; raises the errors of the ranks and of the sink."""
        publications = self._publications
        try:
            while not self._stopping or publications.is_busy:
                await self._let_images_pass()
                if self._joins:
                    await asyncio.wait(self._joins)
                self._work.clear()  # before planning, so that later additions are noticed
                with self._timer.time("plan"):
                    plan = None if self._stopping else self.scheduler.plan()
                outputs = [] if plan is None else await self._step(plan)
                with self._timer.time("publish"):
                    ended = await publications.add(outputs)
                for sequence_id in ended:
                    await self.remove(sequence_id)
                if plan is None:
                    self._step_ended = None
                if plan is None and not publications.is_busy and not self._stopping:
                    await self._work.wait()
        finally:
            publications.cancel()

    async def _let_images_pass(self) -> None:
        """Delay a step of decodes alone while an image is encoded on the same cores."""
        if self._step_ended is None or not self._arbiter.is_encoding:
            return
        until = self._step_ended + _LONGEST_PAUSE_S
        while self._gives_way and time.perf_counter() < until:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        self._step_ended = time.perf_counter()  # the wait is no part of the next step

    @property
    def _gives_way(self) -> bool:
        """Whether the request of an image that is encoded should join before the next step.

        A step costs hardly more with one decode more. A full batch has no place for it.
        """
        is_needed = self._stopping or bool(self._joins) or not self.scheduler.has_decodes_alone
        return not is_needed and self.scheduler.has_place and self._arbiter.is_encoding

    async def _step(self, plan: StepPlan) -> list[TokenOutput]:
        start = time.perf_counter() if self._step_ended is None else self._step_ended
        with self._timer.time("execute"):
            result = await self.ranks.execute(plan)
        self._step_ended = time.perf_counter()
        with self._timer.time("plan"):
            # From end to end: that is how long decodes wait for their next token.
            seconds = self._step_ended - start
            outputs = self.scheduler.apply(plan, result.tokens, seconds)
        for score in result.prompt_logprobs:
            self._prompt_logprobs.setdefault(score.sequence_id, {})[score.prompt_index] = score
        if self._prompt_logprobs:
            outputs = [self._with_prompt_logprobs(output) for output in outputs]
        for output in outputs:
            self._end_isolation(output.sequence_id)
        finished = [self._forget(output.sequence_id) for output in outputs if output.is_last]
        # Only after all are forgotten: `remove` may be called while this waits for the device.
        for sequence in finished:
            await self._drop_image(sequence)
        self._step_done.set()
        self._step_done = asyncio.Event()
        return outputs

    def _with_prompt_logprobs(self, output: TokenOutput) -> TokenOutput:
        scores = self._prompt_logprobs.pop(output.sequence_id, None)
        return output if scores is None else replace(output, prompt_logprobs=tuple(scores.values()))

    def _forget(self, sequence_id: int) -> SequenceState:
        """Drop the state of a sequence that the scheduler has removed."""
        sequence = self._sequences.pop(sequence_id)
        self._end_isolation(sequence_id)
        self._prompt_logprobs.pop(sequence_id, None)
        self._grammars.close(sequence_id)
        if sequence.request.image:
            self._images[sequence.request.image] -= 1
        return sequence

    async def _drop_image(self, sequence: SequenceState) -> None:
        """Free the image of a forgotten sequence, unless other sequences use it."""
        digest = sequence.request.image
        if digest and self._images.get(digest) == 0:
            del self._images[digest]
            await self.ranks.drop_image(digest)

    def _end_isolation(self, sequence_id: int) -> None:
        if (done := self._isolated.pop(sequence_id, None)) is not None:
            done.set()
