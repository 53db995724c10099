"""Scheduling order, preemption and capacity."""

import time
from dataclasses import replace

import pytest

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.scheduler import AGEING_STEPS, Scheduler
from lm_worker.engine.sequence import SequenceState
from lm_worker.plan import SampledToken
from tests.unit.lm_worker.simulated_steps import StepRunner, alone, make_request, run_one


@pytest.mark.parametrize("steps", [AGEING_STEPS * 4 - 1, AGEING_STEPS * 4])
def test_waiting_outweighs_priority(steps: int) -> None:
    scheduler = Scheduler(BlockPool(400, 1), max_num_seqs=1, max_batched_tokens=8)
    device = StepRunner(1, 8)
    request = make_request("busy", (1, 2), most=300)
    busy = SequenceState(0, replace(request, stop_ids=frozenset()), 0, ())
    scheduler.add(busy)
    run_one(scheduler, device)
    last = SequenceState(1, make_request("last", (3, 4), most=1, priority=5), 0, ())
    scheduler.add(last)
    for _ in range(steps):
        run_one(scheduler, device)
    first = SequenceState(2, make_request("first", (5, 6), most=1, priority=1), 0, ())
    scheduler.add(first)
    scheduler.remove(busy)
    [chunk] = run_one(scheduler, device).chunks
    has_aged = steps == AGEING_STEPS * 4
    assert chunk.sequence_id == (last if has_aged else first).sequence_id


def test_the_last_priority_is_preempted_first() -> None:
    scheduler = Scheduler(BlockPool(8, 1), max_num_seqs=4, max_batched_tokens=8)
    device = StepRunner(1, 8)
    for number, priority in enumerate([2, 4, 4, 3]):
        request = make_request(f"r{number}", (number + 10, number + 20), most=4, priority=priority)
        scheduler.add(SequenceState(number, request, 0, ()))
    assert len(run_one(scheduler, device).chunks) == 4  # all blocks are taken
    [*kept] = run_one(scheduler, device).chunks
    assert [chunk.sequence_id for chunk in kept] == [0, 3]
    assert scheduler.waiting == 2


def test_has_capacity_while_fewer_wait_than_run() -> None:
    scheduler = Scheduler(BlockPool(8, 1), max_num_seqs=4, max_batched_tokens=8)
    device = StepRunner(1, 8)
    sequences = [
        SequenceState(n, make_request(f"r{n}", (n + 10,), most=4), 0, ()) for n in range(2)
    ]
    taken = [scheduler.has_capacity]
    scheduler.add(sequences[0])  # one waits, none runs
    taken.append(scheduler.has_capacity)
    run_one(scheduler, device)
    taken.append(scheduler.has_capacity)
    scheduler.add(sequences[1])  # as many wait as run
    taken.append(scheduler.has_capacity)
    assert taken == [True, False, True, False]


def test_is_prefilling_until_the_last_prompt_token() -> None:
    scheduler = Scheduler(BlockPool(8, 1), max_num_seqs=4, max_batched_tokens=2)
    device = StepRunner(1, 8)
    seen = [scheduler.is_prefilling]
    scheduler.add(SequenceState(0, make_request("r", (1, 2, 3, 4), most=4), 0, ()))
    seen.append(scheduler.is_prefilling)  # it waits
    for _ in range(2):  # two rows each
        run_one(scheduler, device)
        seen.append(scheduler.is_prefilling)
    assert seen == [False, True, True, False]


def test_no_capacity_while_the_cache_is_full() -> None:
    scheduler = Scheduler(BlockPool(8, 1), max_num_seqs=4, max_batched_tokens=8)
    device = StepRunner(1, 8)
    for number in range(3):
        ids = tuple(range(10 * number + 10, 10 * number + 13))
        scheduler.add(SequenceState(number, make_request(f"r{number}", ids, most=2), 0, ()))
    run_one(scheduler, device)
    assert (scheduler.running, scheduler.waiting) == (2, 1)
    when_full = scheduler.has_capacity
    assert not scheduler.is_prefilling, "what waits for room holds up no image"
    while scheduler.running or scheduler.waiting:
        run_one(scheduler, device)
    assert scheduler.plan() is None
    assert (when_full, scheduler.has_capacity) == (False, True)


def test_the_newest_sequence_is_preempted_when_blocks_run_out() -> None:
    scheduler = Scheduler(BlockPool(6, 2), max_num_seqs=4, max_batched_tokens=100)
    device = StepRunner(2, 100)
    old = SequenceState(0, make_request("old", (1, 2, 3, 4), most=6), 0, ())
    young = SequenceState(1, make_request("young", (5, 6, 8, 9), most=6), 0, ())
    scheduler.add(old)
    scheduler.add(young)
    while (plan := scheduler.plan()) is not None:
        scheduler.apply(plan, device.execute(plan))
    assert scheduler.counts.preemptions > 0
    assert old.token_ids == alone(old.request)
    assert young.token_ids == alone(young.request)


def test_a_quarantined_sequence_runs_alone_until_it_has_a_token() -> None:
    scheduler = Scheduler(BlockPool(16, 2), max_num_seqs=2, max_batched_tokens=3)
    device = StepRunner(2, 3)
    for number in range(2):
        scheduler.add(SequenceState(number, make_request("r", (1, 2), most=9), 0, ()))
    plan = scheduler.plan()
    assert plan is not None
    scheduler.apply(plan, device.execute(plan))
    quarantined = SequenceState(
        2, make_request("s", (5, 4, 3, 2, 1), most=9), 0, (), is_quarantined=True
    )
    scheduler.add(quarantined)
    for rows in (3, 2):
        plan = scheduler.plan()
        assert plan is not None
        assert [(c.sequence_id, len(c.token_ids)) for c in plan.chunks] == [(2, rows)]
        scheduler.apply(plan, device.execute(plan))
    plan = scheduler.plan()
    assert plan is not None
    assert len(plan.chunks) == 2
    assert not quarantined.is_quarantined


def test_a_thousand_sequences_are_planned_in_the_time_of_a_few_plain_objects_each() -> None:
    """A plan makes two values and four tuples for each sequence; what comes on top is bounded."""
    scheduler = Scheduler(BlockPool(8000, 16), max_num_seqs=1000, max_batched_tokens=2000)
    for number in range(1000):
        request = make_request(f"r{number}", (number, 5), most=100)
        scheduler.add(SequenceState(number, replace(request, stop_ids=frozenset()), 0, ()))
    planning_s, making_s = [], []
    for _ in range(40):
        begun = time.thread_time()
        plan = scheduler.plan()
        planned = time.thread_time()
        made = [[number, (number,), (number,), (number, [number])] for number in range(1000)]
        end = time.thread_time()
        assert plan is not None
        assert len(made) == len(plan.chunks) == 1000
        planning_s.append(planned - begun)
        making_s.append(end - planned)
        scheduler.apply(plan, [[SampledToken(9)] for _ in plan.chunks])
    # The best of each, in time of this thread: what else the machine does only adds.
    assert min(planning_s[1:]) < 10 * min(making_s)
