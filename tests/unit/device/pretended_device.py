"""A device that only keeps books: what lies in every cache row, and whose it is."""

import random
from dataclasses import dataclass, field

from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import SequenceRequest, SequenceState
from lm_worker.plan import NO_TOKEN, Chunk, SampledToken, StepPlan

NUM_IMAGE_TOKENS = 18


def make_request(
    name: str,
    prompt: tuple[int, ...],
    *,
    most: int,
    image: str = "",
    priority: int = 3,
    salt: str = "",
) -> SequenceRequest:
    return SequenceRequest(
        request_id=name,
        prompt_ids=prompt,
        image=image,
        image_offset=2 if image else -1,
        max_tokens=most,
        stop_ids=frozenset({7}),
        priority=priority,
        cache_salt=salt,
    )


def next_token(rows: tuple[int, ...], image: str) -> int:
    """A pretended model: the next token is a function of all rows before it."""
    return random.Random(f"{rows}{image}").randrange(5, 60)


def num_tokens(plan: StepPlan) -> int:
    """Tokens computed in a step."""
    return sum(len(chunk.token_ids) for chunk in plan.chunks)


@dataclass
class FakeDevice:
    """A cache of rows by block; executes plans and checks that they make sense."""

    block_size: int
    max_batched_tokens: int
    salts: dict[int, str] = field(default_factory=dict)  # of sequences; others have none
    broken: set[int] = field(default_factory=set)  # sequences whose scores are no numbers
    rows: dict[tuple[int, int], tuple[int, str]] = field(default_factory=dict)

    def execute(self, plan: StepPlan) -> list[SampledToken]:
        assert num_tokens(plan) <= self.max_batched_tokens
        ids = [chunk.sequence_id for chunk in plan.chunks]
        assert len(set(ids)) == len(ids)
        sampled = []
        for chunk in plan.chunks:
            for offset, row in enumerate(chunk.token_ids):
                slot = self._slot(chunk.block_table, chunk.context_len + offset)
                self.rows[slot] = (row, self._mark(chunk, row))
        for chunk in plan.chunks:
            if chunk.sampling is not None:
                end = chunk.context_len + len(chunk.token_ids)
                cached = [self.rows[self._slot(chunk.block_table, r)] for r in range(end)]
                assert all(mark == self._mark(chunk, row) for row, mark in cached)
                token = next_token(tuple(row for row, _ in cached), chunk.image)
                if chunk.sequence_id in self.broken:
                    token = NO_TOKEN
                sampled.append(SampledToken(chunk.sequence_id, token, None, ()))
        return sampled

    def _mark(self, chunk: Chunk, row: int) -> str:
        """Whose a cached row is: only requests of the same mark may build on it."""
        image = chunk.image if row < 0 else ""
        return f"{self.salts.get(chunk.sequence_id, '')} {image}"

    def _slot(self, table: tuple[int, ...], row: int) -> tuple[int, int]:
        return table[row // self.block_size], row % self.block_size


def alone(request: SequenceRequest) -> list[int]:
    """The answer when nothing else runs."""
    sequence = SequenceState(0, request, NUM_IMAGE_TOKENS, ())
    while not sequence.is_over():
        rows = sequence.input_ids(0, sequence.num_known_tokens)
        sequence.add_token(next_token(rows, request.image))
    return sequence.token_ids


def run_one(scheduler: Scheduler, device: FakeDevice) -> StepPlan:
    """One step, of a scheduler that has something to do."""
    plan = scheduler.plan()
    assert plan is not None
    scheduler.apply(plan, device.execute(plan))
    return plan
