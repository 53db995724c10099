"""Decides what every step computes: decodes first, then prefill chunks, within a budget of rows."""

import math
from bisect import insort
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.budget import StepBudget
from lm_worker.engine.sequence import Sequence
from lm_worker.plan import NO_TOKEN, Chunk, SampledToken, StepPlan

AGEING_STEPS = 64  # steps of waiting that make up for one priority


class Scheduler:
    """Sequences wait, run, and leave, in turn.

    A sequence's turn is the step it came in, put off by `AGEING_STEPS` for each priority below the
    first. So a request of priority 5 goes before one of priority 1 that comes 4 * AGEING_STEPS
    steps later, and nobody waits for ever.

    When blocks run out the last running sequence in turn gives its blocks up and waits again; its
    rows are computed anew later, from its tokens. Nothing is dropped. The first in turn never
    gives way, so that there is always one that comes to its end.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_num_seqs: int,
        max_batched_tokens: int,
        stretch: float = math.inf,
        prefix_cache: bool = True,
    ) -> None:
        """`max_batched_tokens` and `stretch` are those of `StepBudget`."""
        self.pool = pool
        self._max_sequences = max_num_seqs
        self._budget = StepBudget(max_batched_tokens, stretch)
        self._prefix_cache = prefix_cache
        self._waiting: list[Sequence] = []  # in turn
        self._running: list[Sequence] = []  # in turn
        self._by_number: dict[int, Sequence] = {}  # the running ones
        self._suspects: list[Sequence] = []
        self._steps = 0
        self._planned = (0, 0)  # rows of the last step: decodes, prefills
        self._is_full = False  # whether one was to run and found no room
        self.preemptions = 0

    @property
    def waiting(self) -> int:
        """Sequences without blocks."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences with blocks."""
        return len(self._running)

    @property
    def is_prefilling(self) -> bool:
        """Whether the next steps have prefills."""
        is_waiting = bool(self._waiting) and not self._is_full
        return is_waiting or any(sequence.remaining > 1 for sequence in self._running)

    @property
    def has_capacity(self) -> bool:
        """Whether a request that came now would wait for its turn here, not for room.

        Those that wait count in how much of a step prefills get, so the queue must not end at the
        first of them; but no more than run, as another worker may be idle.
        """
        return not self._is_full and len(self._waiting) < max(1, len(self._running))

    def can_ever_run(self, sequence: Sequence) -> bool:
        """Whether the cache can hold the sequence at its longest, alone."""
        return self.pool.blocks_for(sequence.max_total_tokens) <= self.pool.total

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait; the caller has asked `can_ever_run`."""
        assert self.can_ever_run(sequence)
        priority_delay = AGEING_STEPS * (sequence.request.priority - 1)
        sequence.turn = (self._steps + priority_delay, sequence.number)
        insort(self._waiting, sequence, key=_turn)
        if sequence.is_suspect:
            self._suspects.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, whatever its state, and its blocks back."""
        if sequence.number in self._by_number:
            self._stop(sequence)
        else:
            self._waiting.remove(sequence)
        if sequence.is_suspect:
            self._suspects.remove(sequence)

    def plan(self) -> StepPlan | None:
        """The next step; None when there is nothing to compute."""
        chunks = self._plan_isolated(self._suspects[0]) if self._suspects else self._plan_batch()
        if not chunks:
            return None
        self._steps += 1
        return StepPlan(self._steps, tuple(chunks))

    def apply(
        self, plan: StepPlan, sampled: SequenceOf[SampledToken], seconds: float | None = None
    ) -> list[tuple[Sequence, SampledToken, bool]]:
        """Take in what the last step computed: who got which token, and whether it is the last.

        Sequences that end are removed; those that left while the step ran are passed over.
        `seconds` is what the step took, if it was measured.
        """
        if seconds is not None:
            self._budget.took(*self._planned, seconds)
        for chunk in plan.chunks:
            if (sequence := self._by_number.get(chunk.sequence_id)) is not None:
                sequence.computed = chunk.context_len + len(chunk.token_ids)
        return [
            (sequence, token, self._grow(sequence, token))
            for token in sampled
            if (sequence := self._by_number.get(token.sequence_id)) is not None
        ]

    def audit(self) -> list[str]:
        """What is wrong with the blocks; empty when every one is accounted for."""
        wrong = self.pool.audit(sequence.block_table for sequence in self._running)
        if any(sequence.block_table for sequence in self._waiting):
            wrong.append("a waiting sequence has blocks")
        return wrong

    def _plan_isolated(self, suspect: Sequence) -> list[Chunk]:
        while suspect.number not in self._by_number and not self._admit(suspect):
            self._preempt(self._running[-1])
        rows = min(suspect.remaining, self._budget.max_batched_tokens)
        self._planned = (0, rows)
        return [suspect.chunk(rows)]

    def _plan_batch(self) -> list[Chunk]:
        preemptions = self.preemptions
        self._is_full = False
        decodes: list[Sequence] = []
        prefills: list[Sequence] = []
        for sequence in self._running:
            (decodes if sequence.remaining == 1 else prefills).append(sequence)
        chunks = [
            sequence.last_row()
            for sequence in decodes[: self._budget.max_batched_tokens]
            if sequence.computed < sequence.room or self._extend(sequence)
        ]
        self._planned = (len(chunks), 0)
        # One that still runs may have given way to a decode.
        prefills = [sequence for sequence in prefills if sequence.block_table]
        wanting = min(len(prefills) + len(self._waiting), self._max_sequences)
        room = self._budget.prefill_tokens(len(chunks), wanting) if wanting else 0
        if room > 0:
            admitting = self.preemptions == preemptions
            for sequence in self._prefills(prefills, admitting):
                rows = min(sequence.remaining, room)
                chunks.append(sequence.chunk(rows))
                room -= rows
                self._planned = (self._planned[0], self._planned[1] + rows)
                if room == 0:
                    break
        return chunks

    def _prefills(self, running: list[Sequence], admitting: bool) -> Iterator[Sequence]:
        """Unfinished prefills in turn, those that wait as far as there is room for them.

        Whoever asks about an image that is in the middle of another one's prefill lets that one
        finish, to find the rows in the cache.
        """
        ready = deque(running)
        coming = deque(self._waiting if admitting else ())
        images = {self._image_hash(sequence) for sequence in running} - {None}
        while ready or coming:
            if ready and not (coming and coming[0].turn < ready[0].turn):
                yield ready.popleft()
            elif (image := self._image_hash(coming[0])) in images:
                coming.popleft()
            elif self._admit(coming[0]):
                images |= {image} - {None}
                yield coming.popleft()
            else:
                self._is_full = True
                coming.clear()

    def _image_hash(self, sequence: Sequence) -> bytes | None:
        """What requests share that begin alike up to the end of an image; None for all others."""
        return sequence.image_hash(self.pool.block_size) if self._prefix_cache else None

    def _extend(self, sequence: Sequence) -> bool:
        """Give a decode a block for its next row; False when it had to give way."""
        while sequence.block_table:
            if self.pool.can_allocate(1):
                sequence.hold(self.pool.allocate(1), self.pool.block_size)
                return True
            self._preempt(self._running[-1])
        return False

    def _admit(self, sequence: Sequence) -> bool:
        """Move a waiting sequence to the running ones, if all its known rows fit."""
        if len(self._running) >= self._max_sequences:
            return False
        pool = self.pool
        # The last known row is always computed, as its logits are wanted; or those of all rows.
        looks_up = self._prefix_cache and not sequence.scores_prompt
        known = (sequence.row_count - 1) // pool.block_size if looks_up else 0
        shared = pool.match(sequence.block_hashes(pool.block_size, known))
        lacking = pool.blocks_for(sequence.row_count) - len(shared)
        if not pool.can_allocate(lacking):
            pool.release(shared)
            return False
        self._waiting.remove(sequence)
        insort(self._running, sequence, key=_turn)
        self._by_number[sequence.number] = sequence
        sequence.hold(shared + pool.allocate(lacking), pool.block_size)
        sequence.computed = len(shared) * pool.block_size
        sequence.remembered = len(shared)
        return True

    def _stop(self, sequence: Sequence) -> None:
        """Take a running sequence out, and its blocks back."""
        self._running.remove(sequence)
        del self._by_number[sequence.number]
        self.pool.release(sequence.block_table)
        sequence.release_blocks()

    def _preempt(self, sequence: Sequence) -> None:
        self._stop(sequence)
        insort(self._waiting, sequence, key=_turn)
        self.preemptions += 1

    def _grow(self, sequence: Sequence, token: SampledToken) -> bool:
        """Add a running sequence's token; remove the sequence when that was the last."""
        if sequence.is_suspect:
            self._suspects.remove(sequence)
            sequence.is_suspect = False
        if token.token_id == NO_TOKEN:
            # Rows that are no numbers may lie in any of its blocks: nobody shall build on them.
            self.pool.forget(sequence.block_table)
        else:
            # Only now are its rows known to be sound: the token's scores depend on all of them.
            if sequence.computed // self.pool.block_size > sequence.remembered:
                self._remember(sequence)
            sequence.add_token(token.token_id)
        is_last = token.is_complete or bool(token.failure) or sequence.is_over()
        if is_last or token.token_id == NO_TOKEN:
            self._stop(sequence)
            return True
        return False

    def _remember(self, sequence: Sequence) -> None:
        """Let blocks that the last step filled be found by later requests."""
        if not self._prefix_cache:
            return
        size = self.pool.block_size
        full = sequence.computed // size
        hashes = sequence.block_hashes(size, full)
        for index in range(sequence.remembered, full):
            self.pool.remember(sequence.block_table[index], hashes[index])
        sequence.remembered = full


def _turn(sequence: Sequence) -> tuple[int, int]:
    return sequence.turn
