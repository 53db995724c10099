"""Scheduler and block pool under random arrivals, cancels and a device that is only pretended."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_worker.blocks import BlockPool
from lm_worker.plan import SampledToken, StepPlan
from lm_worker.scheduler import Scheduler
from lm_worker.sequence import Sequence, SequenceRequest

PICTURE_ROWS = 18


def make_request(
    name: str, prompt: tuple[int, ...], *, most: int, picture: str = ""
) -> SequenceRequest:
    return SequenceRequest(
        request_id=name,
        prompt_ids=prompt,
        picture=picture,
        image_slot=2 if picture else -1,
        max_tokens=most,
        stop_ids=frozenset({7}),
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        seed=0,
    )


def next_token(rows: tuple[int, ...], picture: str) -> int:
    """A pretended model: the next token is a function of all rows before it."""
    return random.Random(f"{rows}{picture}").randrange(5, 60)


@dataclass
class PretendedDevice:
    """A cache of rows by block; executes plans and checks that they make sense."""

    block_size: int
    step_rows: int
    rows: dict[tuple[int, int], tuple[int, str]] = field(default_factory=dict)

    def execute(self, plan: StepPlan) -> list[SampledToken]:
        assert plan.row_count <= self.step_rows
        ids = [chunk.sequence_id for chunk in plan.chunks]
        assert len(set(ids)) == len(ids)
        sampled = []
        for chunk in plan.chunks:
            for offset, row in enumerate(chunk.row_ids):
                self.rows[self._slot(chunk.block_table, chunk.start_row + offset)] = (
                    row,
                    chunk.picture if row < 0 else "",
                )
        for chunk in plan.chunks:
            if chunk.sample is not None:
                end = chunk.start_row + len(chunk.row_ids)
                cached = [self.rows[self._slot(chunk.block_table, r)] for r in range(end)]
                pictures = {picture for row, picture in cached if row < 0}
                assert pictures <= {chunk.picture}
                token = next_token(tuple(row for row, _ in cached), chunk.picture)
                sampled.append(SampledToken(chunk.sequence_id, token, None, ()))
        return sampled

    def _slot(self, table: tuple[int, ...], row: int) -> tuple[int, int]:
        return table[row // self.block_size], row % self.block_size


def alone(request: SequenceRequest) -> list[int]:
    """The answer when nothing else runs."""
    sequence = Sequence(0, request, PICTURE_ROWS, ())
    while not sequence.is_over():
        rows = sequence.row_ids(0, sequence.row_count)
        sequence.add_token(next_token(rows, request.picture))
    return sequence.token_ids


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    block_size=st.sampled_from([1, 3, 16]),
    blocks=st.integers(8, 40),
    step_rows=st.sampled_from([1, 5, 64]),
)
def test_every_answer_is_that_of_a_lone_run_and_every_block_comes_back(
    seed: int, block_size: int, blocks: int, step_rows: int
) -> None:
    rng = random.Random(seed)
    scheduler = Scheduler(BlockPool(blocks, block_size), max_sequences=6, step_rows=step_rows)
    device = PretendedDevice(block_size, step_rows)
    live: list[Sequence] = []
    finished: dict[str, list[int]] = {}
    asked: dict[str, SequenceRequest] = {}
    for number in range(200):
        if len(asked) < 20 and rng.random() < 0.5:
            prompt = tuple(rng.choice([[1, 2, 3, 4, 5, 6], [1, 2, 9], [1, 2, 3, 4, 5, 8, 8, 8]]))
            picture = rng.choice(["", "a", "b"]) if len(prompt) > 4 else ""
            request = make_request(f"r{number}", prompt, most=rng.randint(1, 12), picture=picture)
            suspect = rng.random() < 0.1
            sequence = Sequence(number, request, PICTURE_ROWS, (), is_suspect=suspect)
            if scheduler.can_ever_run(sequence):
                scheduler.add(sequence)
                live.append(sequence)
                asked[request.request_id] = request
        plan = scheduler.plan()
        if live and rng.random() < 0.05:  # cancelled while its step runs
            victim = live.pop(rng.randrange(len(live)))
            scheduler.remove(victim)
            del asked[victim.request.request_id]
        if plan is not None:
            scheduler.apply(plan, device.execute(plan))
        assert scheduler.audit() == []
        for sequence in [s for s in live if s.is_over()]:
            live.remove(sequence)
            finished[sequence.request.request_id] = sequence.token_ids
    while (plan := scheduler.plan()) is not None:
        scheduler.apply(plan, device.execute(plan))
    finished |= {s.request.request_id: s.token_ids for s in live}
    assert {name: alone(request) for name, request in asked.items()} == finished
    assert scheduler.running == scheduler.waiting == 0
    assert scheduler.audit() == []
    assert scheduler.pool.available == blocks


def test_a_second_question_about_the_same_picture_computes_only_what_is_new() -> None:
    scheduler = Scheduler(BlockPool(64, 4), max_sequences=4, step_rows=1000)
    device = PretendedDevice(4, 1000)
    prompt = (1, 2, 3, 4, 5, 10, 11, 12)

    def first_step_rows(number: int, picture: str) -> int:
        scheduler.add(Sequence(number, make_request("r", prompt, most=1, picture=picture), 18, ()))
        plan = scheduler.plan()
        assert plan is not None
        scheduler.apply(plan, device.execute(plan))
        return plan.row_count

    rows = len(prompt) + PICTURE_ROWS - 3
    assert first_step_rows(0, "a") == rows
    assert first_step_rows(1, "a") == rows - (rows - 1) // 4 * 4
    assert first_step_rows(2, "b") == rows


def test_the_youngest_gives_way_when_blocks_run_out() -> None:
    scheduler = Scheduler(BlockPool(6, 2), max_sequences=4, step_rows=100)
    device = PretendedDevice(2, 100)
    old = Sequence(0, make_request("old", (1, 2, 3, 4), most=6), 0, ())
    young = Sequence(1, make_request("young", (5, 6, 8, 9), most=6), 0, ())
    scheduler.add(old)
    scheduler.add(young)
    while (plan := scheduler.plan()) is not None:
        scheduler.apply(plan, device.execute(plan))
    assert scheduler.preemptions > 0
    assert old.token_ids == alone(old.request)
    assert young.token_ids == alone(young.request)


def test_a_suspect_has_its_steps_alone_until_it_has_a_token() -> None:
    scheduler = Scheduler(BlockPool(16, 2), max_sequences=2, step_rows=3)
    device = PretendedDevice(2, 3)
    for number in range(2):
        scheduler.add(Sequence(number, make_request("r", (1, 2), most=9), 0, ()))
    plan = scheduler.plan()
    assert plan is not None
    scheduler.apply(plan, device.execute(plan))
    suspect = Sequence(2, make_request("s", (5, 4, 3, 2, 1), most=9), 0, (), is_suspect=True)
    scheduler.add(suspect)
    for rows in (3, 2):
        plan = scheduler.plan()
        assert plan is not None
        assert [(c.sequence_id, len(c.row_ids)) for c in plan.chunks] == [(2, rows)]
        scheduler.apply(plan, device.execute(plan))
    plan = scheduler.plan()
    assert plan is not None
    assert len(plan.chunks) == 2
    assert not suspect.is_suspect


@pytest.mark.parametrize("rows", [3, 18])
def test_positions_are_those_of_the_published_model(rows: int) -> None:
    request = make_request("r", (1, 2, 3, 4, 5, 10, 11), most=4, picture="a")
    sequence = Sequence(0, request, rows, (12,))
    extra = rows - 3
    expected = [0, 1, 2, *[3] * (rows - 2), 4, 5, 6, 7]
    assert list(sequence.positions(0, sequence.row_count)) == expected
    assert sequence.row_count == len(request.prompt_ids) + extra + 1
