"""Plans every step: decodes first, then prefill chunks, within a token budget."""

import math
from bisect import insort
from collections.abc import Iterator, Sequence

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.budget import StepBudget
from lm_worker.engine.counts import Counts
from lm_worker.engine.decodes import decode_chunks
from lm_worker.engine.draft_planner import DraftPlanner
from lm_worker.engine.fairness import FairOrder, fair_decodes, last_of_most, share, to_preempt
from lm_worker.engine.prefix_cache import PrefixCache
from lm_worker.engine.sequence import SequenceState, TokenOutput
from lm_worker.engine.token_appender import TokenAppender
from lm_worker.plan import Chunk, SampledToken, StepPlan

AGEING_STEPS = 64  # steps of waiting that outweigh one level of priority


class Scheduler:
    """Continuous batching with chunked prefill, priorities, preemption and a prefix cache.

    Sequences are ordered by the step of their arrival plus `AGEING_STEPS` for each priority below
    the first. A request of priority 5 goes before one of priority 1 that arrives 4 * AGEING_STEPS
    steps later, and no request starves. That order applies within a client. The client with fewest
    running sequences goes first (`fairness`), preempting one with more in a full batch or cache.
    One that begins like another one being computed waits for its blocks (`shared_prefixes`).

    When blocks run out, the last running sequence of the client with most of them is preempted: it
    releases its blocks and is recomputed later. The first one never is, so that one finishes.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_num_seqs: int,
        max_batched_tokens: int,
        prefill_slowdown: float = math.inf,
        prefix_cache: bool = True,
        drafts: DraftPlanner | None = None,
    ) -> None:
        """`max_batched_tokens` and `prefill_slowdown` are those of `StepBudget`.

        `drafts` decides how many tokens of a sequence a step computes; None: one.
        """
        self.pool = pool
        self._max_num_seqs = max_num_seqs
        self._budget = StepBudget(max_batched_tokens, prefill_slowdown)
        self._cache = PrefixCache(pool, is_enabled=prefix_cache)
        self._drafts = drafts
        self._waiting: list[SequenceState] = []  # sorted
        self._running: list[SequenceState] = []  # sorted
        self._by_id: dict[int, SequenceState] = {}  # running ones
        self._quarantined: list[SequenceState] = []
        self._released: list[int] = []  # sequences that released their blocks since the last plan
        self._steps = 0
        self._planned = (0, 0)  # tokens of the last step: decodes, prefills
        self._is_full = False  # whether a sequence could not be admitted
        self._num_awaiting = 0  # waiting sequences that a running prefill computes blocks for
        self.counts = Counts()
        self._appender = TokenAppender(self._cache, self.counts, block_size=pool.block_size)

    @property
    def waiting(self) -> int:
        """Waiting sequences, which have no blocks."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Running sequences, which have blocks."""
        return len(self._running)

    @property
    def is_prefilling(self) -> bool:
        """Whether the next steps contain prefills."""
        is_waiting = bool(self._waiting) and not self._is_full
        return is_waiting or not all(sequence.is_decoding for sequence in self._running)

    @property
    def has_decodes_alone(self) -> bool:
        """Whether the next step has decodes and no prefill."""
        return bool(self._running) and not self.is_prefilling

    @property
    def has_place(self) -> bool:
        """Whether one more sequence could run."""
        return not self._is_full and len(self._running) < self._max_num_seqs

    @property
    def has_capacity(self) -> bool:
        """Whether this worker should claim more requests.

        Waiting requests raise the prefill budget, so a few are kept queued here; but no more than
        are running, as another worker may be idle. Those that wait for a beginning that is being
        computed here would be computed no sooner there.
        """
        waiting = len(self._waiting) - self._num_awaiting
        return not self._is_full and waiting < max(1, len(self._running))

    def can_ever_run(self, sequence: SequenceState) -> bool:
        """Whether the sequence at its full length fits the cache when it is alone."""
        return self.pool.blocks_for(sequence.max_total_tokens) <= self.pool.total

    def add(self, sequence: SequenceState) -> None:
        """Queue a sequence; the caller has checked `can_ever_run`."""
        assert self.can_ever_run(sequence)
        priority_delay = AGEING_STEPS * (sequence.request.priority - 1)
        sequence.sort_key = (self._steps + priority_delay, sequence.sequence_id)
        insort(self._waiting, sequence, key=_sort_key)
        if sequence.is_quarantined:
            self._quarantined.append(sequence)
        if self._drafts is not None:
            self._drafts.begin(sequence)

    def remove(self, sequence: SequenceState) -> None:
        """Remove a waiting or running sequence and release its blocks."""
        if sequence.sequence_id in self._by_id:
            self._stop(sequence)
        else:
            self._waiting.remove(sequence)
        if sequence.is_quarantined:
            self._quarantined.remove(sequence)

    def plan(self) -> StepPlan | None:
        """The next step; None if there is nothing to compute."""
        chunks = (
            self._plan_isolated(self._quarantined[0]) if self._quarantined else self._plan_batch()
        )
        if not chunks:
            return None
        self._steps += 1
        self.counts.steps += 1
        self.counts.computed_tokens += sum(len(chunk.token_ids) for chunk in chunks)
        released, self._released = tuple(self._released), []
        return StepPlan(self._steps, tuple(chunks), released, self._cache.take_copies())

    def apply(
        self,
        plan: StepPlan,
        sampled: Sequence[Sequence[SampledToken]],
        seconds: float | None = None,
    ) -> list[TokenOutput]:
        """Add the last step's tokens, those of `StepResult`.

        Finished sequences are removed; those removed while the step ran are skipped. `seconds` is
        the step's duration, if it was measured.
        """
        if seconds is not None:
            self._budget.observe(*self._planned, seconds)
            if self._drafts is not None and not self._planned[1]:
                self._drafts.observe(self._planned[0], seconds)
        for chunk in plan.chunks:
            if (sequence := self._by_id.get(chunk.sequence_id)) is not None:
                sure = len(chunk.token_ids) - len(chunk.drafts)
                sequence.num_computed_tokens = chunk.context_len + sure
        sampling = [chunk for chunk in plan.chunks if chunk.sampling is not None]
        return [
            output
            for chunk, tokens in zip(sampling, sampled, strict=True)
            if (sequence := self._by_id.get(chunk.sequence_id)) is not None
            for output in self._append(sequence, chunk, tokens)
        ]

    def check_integrity(self) -> list[str]:
        """Inconsistencies of the cache; empty if every block is accounted for."""
        wrong = self.pool.check_integrity(sequence.block_table for sequence in self._running)
        if any(sequence.block_table for sequence in self._waiting):
            wrong.append("a waiting sequence has blocks")
        return wrong

    def _plan_isolated(self, sequence: SequenceState) -> list[Chunk]:
        while sequence.sequence_id not in self._by_id and not self._admit(sequence):
            self._preempt(self._running[-1])
        num_tokens = min(sequence.num_uncomputed_tokens, self._budget.max_batched_tokens)
        self._planned = (0, num_tokens)
        return [sequence.chunk(num_tokens)]

    def _plan_batch(self) -> list[Chunk]:
        self._make_place()
        preemptions = self.counts.preemptions
        self._is_full = False
        decodes: list[SequenceState] = []
        prefills: list[SequenceState] = []
        for sequence in self._running:
            (decodes if sequence.is_decoding else prefills).append(sequence)
        fair = fair_decodes(decodes, [*prefills, *self._waiting])
        shared = share(decodes, self._budget.decodes(fair, len(decodes)))
        decodes = [
            sequence
            for sequence in shared[: self._budget.max_batched_tokens]
            if sequence.num_known_tokens <= sequence.capacity or self._append_blocks(sequence)
        ]
        # One that had its blocks may have been preempted for another one's.
        decodes = [sequence for sequence in decodes if sequence.block_table]
        for sequence in decodes:
            sequence.decoded_at = self._steps
        chunks = decode_chunks(decodes, self.pool, self._budget.max_batched_tokens, self._drafts)
        num_decoded = sum(len(chunk.token_ids) for chunk in chunks)
        self._planned = (num_decoded, 0)
        # A prefill may have been preempted for a decode.
        prefills = [sequence for sequence in prefills if sequence.block_table]
        num_waiting = min(len(prefills) + len(self._waiting), self._max_num_seqs)
        budget = self._budget.prefill_tokens(num_decoded, num_waiting) if num_waiting else 0
        if budget > 0:
            admitting = self.counts.preemptions == preemptions
            for sequence, parts in self._prefills(prefills, admitting):
                num_tokens = min(sequence.num_uncomputed_tokens, max(1, budget // parts))
                chunks.append(sequence.chunk(num_tokens))
                budget -= num_tokens
                self._planned = (num_decoded, self._planned[1] + num_tokens)
                if budget == 0:
                    break
        return chunks

    def _prefills(
        self, running: list[SequenceState], admitting: bool
    ) -> Iterator[tuple[SequenceState, int]]:
        """Unfinished prefills in order, admitting waiting sequences while blocks last.

        Each comes with the number of clients that share the rest of the step, its own included.

        A sequence whose beginning is being computed by another one is left out, to reuse that one's
        cache blocks later.
        """
        waiting = self._waiting if admitting else []
        order = FairOrder(sorted([*running, *waiting], key=_sort_key), self._running)
        shared = self._cache.shared_prefixes(self._running, self._waiting)
        awaiting = list(shared.awaiting())
        self._num_awaiting = len(awaiting)
        for other in awaiting:
            order.discard(other)
        while (sequence := order.pop()) is not None:
            if sequence.sequence_id in self._by_id:
                yield sequence, 1 + order.unserved
            elif self._is_full:
                continue
            elif self._admit(sequence):
                order.admitted(sequence)
                for other in shared.start(sequence):
                    self._num_awaiting += 1
                    order.discard(other)
                yield sequence, 1 + order.unserved
            else:
                self._is_full = True

    def _make_place(self) -> None:
        """Preempt sequences of a client with more of them for the next one that waits."""
        if not self._waiting:
            return
        order = FairOrder(self._waiting, self._running)
        shared = self._cache.shared_prefixes(self._running, self._waiting)
        for sequence in shared.awaiting():
            order.discard(sequence)
        waiting = order.pop()
        while (
            waiting is not None
            and not self._fits(waiting)
            and (victim := to_preempt(self._running, waiting.request.client)) is not None
        ):
            self._preempt(victim)

    def _fits(self, sequence: SequenceState) -> bool:
        """Whether there is a place for a sequence none of whose blocks are in the cache."""
        return len(self._running) < self._max_num_seqs and self.pool.can_allocate(
            self.pool.blocks_for(sequence.num_known_tokens)
        )

    def _append_blocks(self, sequence: SequenceState) -> bool:
        """Allocate blocks for what a decode computes; False if the decode itself was preempted."""
        while sequence.block_table:
            if sequence.num_known_tokens <= sequence.capacity:
                return True
            if self.pool.can_allocate(1):
                sequence.add_blocks(self.pool.allocate(1), self.pool.block_size)
            else:
                self._preempt(last_of_most(self._running))
        return False

    def _admit(self, sequence: SequenceState) -> bool:
        """Start a waiting sequence if its known tokens fit the cache."""
        if len(self._running) >= self._max_num_seqs or not self._cache.start(sequence):
            return False
        self._waiting.remove(sequence)
        insort(self._running, sequence, key=_sort_key)
        self._by_id[sequence.sequence_id] = sequence
        self.counts.prefix_tokens += sequence.num_known_tokens
        self.counts.cached_tokens += sequence.num_computed_tokens
        return True

    def _stop(self, sequence: SequenceState) -> None:
        """Stop a running sequence and release its blocks."""
        self._running.remove(sequence)
        del self._by_id[sequence.sequence_id]
        self._cache.stop(sequence)
        self._released.append(sequence.sequence_id)

    def _preempt(self, sequence: SequenceState) -> None:
        self._stop(sequence)
        insort(self._waiting, sequence, key=_sort_key)
        self.counts.preemptions += 1

    def _append(
        self, sequence: SequenceState, chunk: Chunk, tokens: Sequence[SampledToken]
    ) -> list[TokenOutput]:
        """Append a chunk's tokens to its running sequence; stop it after the last of its output."""
        if sequence.is_quarantined:
            self._quarantined.remove(sequence)
            sequence.is_quarantined = False
        outputs = self._appender.append(sequence, len(chunk.drafts), tokens)
        if outputs[-1].is_last:
            self._stop(sequence)
        return outputs


def _sort_key(sequence: SequenceState) -> tuple[int, int]:
    return sequence.sort_key
