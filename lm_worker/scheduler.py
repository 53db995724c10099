"""Decides what every step computes: decodes first, then prefill chunks, within a budget of rows."""

from bisect import insort
from collections.abc import Sequence as SequenceOf

from lm_worker.blocks import BlockPool
from lm_worker.plan import Chunk, SampledToken, StepPlan
from lm_worker.sequence import Sequence


class Scheduler:
    """Sequences wait, run, and leave; first come, first served.

    When blocks run out the youngest running sequence gives its blocks up and waits again; its rows
    are computed anew later, from its tokens. Nothing is dropped.
    """

    def __init__(self, pool: BlockPool, *, max_sequences: int, step_rows: int) -> None:
        self.pool = pool
        self._max_sequences = max_sequences
        self._step_rows = step_rows
        self._waiting: list[Sequence] = []  # oldest first
        self._running: list[Sequence] = []  # oldest first
        self._steps = 0
        self.preemptions = 0

    @property
    def waiting(self) -> int:
        """Sequences without blocks."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences with blocks."""
        return len(self._running)

    def can_ever_run(self, sequence: Sequence) -> bool:
        """Whether the cache can hold the sequence at its longest, alone."""
        return self.pool.blocks_for(sequence.most_rows) <= self.pool.total

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait; the caller has asked `can_ever_run`."""
        assert self.can_ever_run(sequence)
        insort(self._waiting, sequence, key=_age)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, whatever its state, and its blocks back."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        else:
            self._running.remove(sequence)
            self._release(sequence)

    def plan(self) -> StepPlan | None:
        """The next step; None when there is nothing to compute."""
        suspect = next((s for s in (*self._running, *self._waiting) if s.is_suspect), None)
        return self._plan_together() if suspect is None else self._plan_alone(suspect)

    def _plan_alone(self, suspect: Sequence) -> StepPlan:
        while suspect in self._waiting and not self._admit(suspect):
            self._preempt(self._running[-1])
        rows = min(suspect.remaining, self._step_rows)
        self._steps += 1
        return StepPlan(self._steps, (self._chunk(suspect, rows),))

    def _plan_together(self) -> StepPlan | None:
        budget = self._step_rows
        preemptions = self.preemptions
        planned: list[tuple[Sequence, Chunk]] = []
        for sequence in self._running_work():
            rows = min(sequence.remaining, budget)
            if rows > 0 and sequence.block_table and self._make_room(sequence, rows):
                planned.append((sequence, self._chunk(sequence, rows)))
                budget -= rows
        while budget > 0 and self._waiting and self.preemptions == preemptions:
            oldest = self._waiting[0]
            if not self._admit(oldest):
                break
            rows = min(oldest.remaining, budget)
            planned.append((oldest, self._chunk(oldest, rows)))
            budget -= rows
        chunks = tuple(chunk for sequence, chunk in planned if sequence.block_table)
        if not chunks:
            return None
        self._steps += 1
        return StepPlan(self._steps, chunks)

    def apply(
        self, plan: StepPlan, sampled: SequenceOf[SampledToken]
    ) -> list[tuple[Sequence, SampledToken]]:
        """Take in what a step computed: who got which token. Those that are over are removed.

        Sequences that left while the step ran are passed over.
        """
        running = {sequence.number: sequence for sequence in self._running}
        for chunk in plan.chunks:
            if (sequence := running.get(chunk.sequence_id)) is not None:
                sequence.computed = chunk.start_row + len(chunk.row_ids)
                self._remember(sequence)
        grown = []
        for token in sampled:
            if (sequence := running.get(token.sequence_id)) is not None:
                sequence.add_token(token.token_id)
                sequence.is_suspect = False
                grown.append((sequence, token))
                if sequence.is_over():
                    self.remove(sequence)
        return grown

    def audit(self) -> list[str]:
        """What is wrong with the blocks; empty when every one is accounted for."""
        return self.pool.audit(sequence.block_table for sequence in self._running)

    def _running_work(self) -> list[Sequence]:
        """Running sequences, decodes before unfinished prefills, each oldest first."""
        decodes = [s for s in self._running if s.remaining == 1]
        return decodes + [s for s in self._running if s.remaining > 1]

    def _make_room(self, sequence: Sequence, rows: int) -> bool:
        """Give a running sequence the blocks for its next rows; False when it had to give way."""
        pool = self.pool
        while True:
            lacking = pool.blocks_for(sequence.computed + rows) - len(sequence.block_table)
            if lacking <= 0:
                return True
            if pool.can_allocate(lacking):
                sequence.block_table += pool.allocate(lacking)
                return True
            youngest = self._running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._release(sequence)
        insort(self._waiting, sequence, key=_age)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.block_table)
        sequence.block_table = []
        sequence.computed = sequence.remembered = 0

    def _admit(self, sequence: Sequence) -> bool:
        """Move a waiting sequence to the running ones, if all its known rows fit."""
        if len(self._running) >= self._max_sequences:
            return False
        pool = self.pool
        # The last known row is always computed, as its logits are wanted.
        full_blocks = (sequence.row_count - 1) // pool.block_size
        shared = pool.match(sequence.block_hashes(pool.block_size, full_blocks))
        lacking = pool.blocks_for(sequence.row_count) - len(shared)
        if not pool.can_allocate(lacking):
            pool.release(shared)
            return False
        self._waiting.remove(sequence)
        insort(self._running, sequence, key=_age)
        sequence.block_table = shared + pool.allocate(lacking)
        sequence.computed = len(shared) * pool.block_size
        sequence.remembered = len(shared)
        return True

    def _chunk(self, sequence: Sequence, rows: int) -> Chunk:
        start, end = sequence.computed, sequence.computed + rows
        return Chunk(
            sequence_id=sequence.number,
            row_ids=sequence.row_ids(start, end),
            positions=sequence.positions(start, end),
            start_row=start,
            block_table=tuple(sequence.block_table[: self.pool.blocks_for(end)]),
            picture=sequence.request.picture,
            sample=sequence.sample_spec() if end == sequence.row_count else None,
        )

    def _remember(self, sequence: Sequence) -> None:
        """Let blocks that the last step filled be found by later requests."""
        size = self.pool.block_size
        full = sequence.computed // size
        if full > sequence.remembered:
            hashes = sequence.block_hashes(size, full)
            for index in range(sequence.remembered, full):
                self.pool.remember(sequence.block_table[index], hashes[index])
            sequence.remembered = full


def _age(sequence: Sequence) -> int:
    return sequence.number
