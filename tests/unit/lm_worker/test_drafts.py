"""Drafts repeat what came before, and stop where they are wrong; wrong ones leave no trace."""

import random
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.draft_planner import MAX_DRAFTS, DraftPlanner
from lm_worker.engine.drafts import Drafter, MatchRates
from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import SequenceState
from lm_worker.plan import SampledToken, SamplingParams
from tests.unit.lm_worker.simulated_steps import StepRunner, alone, make_request, run_one

NOTHING: frozenset[int] = frozenset()


class Fixed(Drafter):
    """Always the same drafts."""

    def __init__(self, drafts: tuple[int, ...], rate: float = 1.0) -> None:
        super().__init__((), NOTHING, MatchRates())
        self._fixed = drafts
        self._rate = rate

    def observe(self, forced: int = 0) -> None:
        pass

    def propose(self, most: int) -> Iterator[tuple[int, float]]:
        drafts = self._fixed[:most]
        return iter([(token, self._rate**at) for at, token in enumerate(drafts, 1)])


class Fixing(DraftPlanner):
    """Every sequence has the same drafts."""

    def __init__(self, drafts: tuple[int, ...]) -> None:
        super().__init__()
        self._fixed = drafts

    def begin(self, sequence: SequenceState) -> None:
        sequence.drafter = Fixed(self._fixed)


def drafter_of(tokens: list[int], stop_ids: frozenset[int] = NOTHING) -> Drafter:
    return Drafter(tokens, stop_ids, MatchRates())


def tokens_of(drafter: Drafter, most: int) -> list[int]:
    return [token for token, _ in drafter.propose(most)]


def test_what_followed_the_last_tokens_before_is_drafted() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 1, 2, 3]
    drafter = drafter_of(tokens)
    assert tokens_of(drafter, 2) == [4, 5]
    assert tokens_of(drafter, 4) == [4, 5, 6, 1]
    tokens += [9, 9]
    drafter.observe()
    assert tokens_of(drafter, 8) == []
    tokens += [1, 2, 3]
    drafter.observe()
    assert tokens_of(drafter, 1) == [9]  # the newest place counts


def test_what_repeats_is_drafted_beyond_the_end() -> None:
    assert tokens_of(drafter_of([5, 1, 2, 1, 2, 1]), 5) == [2, 1, 2, 1, 2]


@pytest.mark.parametrize("ender", [-1, 7])
def test_no_draft_goes_beyond_an_image_or_a_stop_id(ender: int) -> None:
    assert tokens_of(drafter_of([1, 2, 3, 4, ender, 5, 1, 2, 3], frozenset({7})), 8) == [4]


def test_drafts_become_likely_while_earlier_places_are_right() -> None:
    rates = MatchRates()
    tokens = [*range(100), *range(3)]
    drafter = Drafter(tokens, NOTHING, rates)
    [(_, before)] = drafter.propose(1)
    for token in range(3, 60):
        tokens.append(token)
        drafter.observe()
    [(token, likely), *_, (_, last)] = drafter.propose(8)
    assert token == 60
    assert before == 0.25
    assert likely > 0.9
    assert 0.4 < last < likely
    # Another sequence begins with what this one has seen, and finds out by itself.
    others = [*range(100), *range(30)]
    other = Drafter(others, NOTHING, rates)
    assert next(other.propose(1))[1] > before
    for number in range(40):
        others += [500 + number, *range(10 + number % 5, 13 + number % 5)]
        other.observe()
    [(_, unlikely)] = other.propose(1)
    assert unlikely < 0.2


def test_forced_tokens_say_nothing_about_the_model() -> None:
    rates = MatchRates()
    tokens = [*range(100), *range(3)]
    drafter = Drafter(tokens, NOTHING, rates)
    tokens += [3, 4, 5]
    drafter.observe(forced=3)
    [(token, likely)] = drafter.propose(1)
    assert (token, likely) == (6, 0.25)


def planned(planner: DraftPlanner, count: int, drafter: Drafter) -> list[int]:
    """How many drafts each of several sequences gets."""
    sequences = [SequenceState(n, make_request("r", (1,), most=50), 0, ()) for n in range(count)]
    for sequence in sequences:
        sequence.drafter = drafter
    return [len(drafts) for drafts in planner.drafts(sequences, count, 100)]


def taught(*durations: tuple[int, float]) -> DraftPlanner:
    """A planner that has seen steps of some rows and seconds."""
    planner = DraftPlanner()
    for _ in range(40):
        for rows, seconds in durations:
            planner.observe(rows, seconds)
    return planner


def test_drafts_are_checked_where_their_rows_cost_less_than_they_save() -> None:
    likely = Fixed((1,) * 20)
    rare = Fixed((1,) * 20, rate=0.6)
    free = taught((1, 1.0), (10, 1.0), (16, 1.0), (32, 1.0))
    dear = taught((1, 1.0), (2, 2.0), (10, 10.0), (16, 16.0))
    assert planned(free, 1, likely) == [MAX_DRAFTS]
    assert planned(free, 2, rare) == [2, 2]  # the third is right once in five times
    assert planned(dear, 1, rare) == [0]
    assert planned(dear, 10, likely) == [0] * 10
    # In between the likelier drafts are checked, and fewer in a larger batch.
    between = taught((1, 1.0), (4, 1.3), (8, 1.9), (10, 2.2), (16, 3.1), (32, 5.5))
    assert 1 <= planned(between, 1, rare)[0] <= 3
    assert sum(planned(between, 10, rare)) == 0


def test_what_did_not_pay_is_measured_again_now_and_then() -> None:
    planner = taught((10, 10.0), (16, 16.0))
    likely = Fixed((1,))
    made = [sum(planned(planner, 10, likely)) for _ in range(1000)]
    assert 2 <= sum(count > 0 for count in made) <= 5
    # The machine is faster now.
    made.clear()
    for _ in range(3000):
        made.append(sum(planned(planner, 10, likely)))
        planner.observe(16 if made[-1] else 10, 10.0)
    assert all(made[-1000:])


def test_drafts_are_found_without_delay_in_a_long_prompt() -> None:
    tokens = [number % 997 for number in range(100_000)]
    started = time.thread_time()  # which no other process adds to
    drafter = drafter_of(tokens)
    tokens.append(tokens[-997])
    drafter.observe()
    assert time.thread_time() - started < 2
    assert tokens_of(drafter, 2) == [tokens[-997], tokens[-996]]


def test_right_drafts_save_steps_and_wrong_ones_are_overwritten() -> None:
    request = replace(make_request("r", (1, 2, 3), most=20), stop_ids=NOTHING)
    answer = alone(request)
    for drafts in [(), tuple(answer[1:5]), (*answer[1:3], 99, 98)]:
        planner = Fixing(())
        scheduler = Scheduler(
            BlockPool(30, 2), max_num_seqs=4, max_batched_tokens=64, drafts=planner
        )
        device = StepRunner(2, 64)
        sequence = SequenceState(0, request, 0, ())
        scheduler.add(sequence)
        run_one(scheduler, device)
        sequence.drafter = Fixed(drafts)
        run_one(scheduler, device)
        right = {0: 0, 4: 4 if drafts[2:3] != (99,) else 2}[len(drafts)]
        assert sequence.token_ids == answer[: 2 + right]
        assert sequence.num_computed_tokens == sequence.num_known_tokens - 1
        while scheduler.running:
            run_one(scheduler, device)
            assert scheduler.check_integrity() == []
        assert sequence.token_ids == answer
        assert scheduler.counts.accepted_tokens >= right
        # Only right tokens are in the prefix cache: the same request again builds on them.
        again = SequenceState(1, request, 0, tuple(answer[:10]))
        scheduler.add(again)
        while scheduler.running or scheduler.waiting:
            run_one(scheduler, device)
        assert again.token_ids == answer


@pytest.mark.parametrize("want_logprobs", [False, True])
def test_what_is_forced_is_computed_for_its_log_probabilities(want_logprobs: bool) -> None:
    request = replace(
        make_request("r", (1, 2, 3), most=40),
        stop_ids=NOTHING,
        sampling=SamplingParams(want_logprobs=want_logprobs),
    )
    answer = alone(request)
    scheduler = Scheduler(
        BlockPool(60, 2), max_num_seqs=4, max_batched_tokens=64, drafts=DraftPlanner()
    )
    device = StepRunner(2, 64, forces=random.Random(1))
    device.answers = {0: answer}
    sequence = SequenceState(0, request, 0, ())
    scheduler.add(sequence)
    while scheduler.running or scheduler.waiting:
        run_one(scheduler, device)
        assert scheduler.check_integrity() == []
    assert sequence.token_ids == answer
    counts = scheduler.counts
    assert counts.steps < 20  # of 40 tokens
    assert bool(counts.forced_tokens) != want_logprobs
    assert bool(counts.accepted_tokens) == want_logprobs


def test_what_is_expected_is_drafted_and_teaches_nothing() -> None:
    tokens = [1, 2, 3, 4, 1, 2, 3]
    drafter = drafter_of(tokens)
    before = list(drafter.propose(1))
    drafter.expect([8, 9])
    assert list(drafter.propose(1)) == [(8, 1.0)]
    assert list(drafter.propose(5)) == [(8, 1.0), (9, 1.0)]
    tokens += [8, 9, 1, 2, 3]
    drafter.observe(3)
    assert list(drafter.propose(1)) == [(8, before[0][1])]


def test_drafts_never_preempt_and_never_exceed_a_step() -> None:
    scheduler = Scheduler(
        BlockPool(8, 1), max_num_seqs=4, max_batched_tokens=4, drafts=Fixing((90, 91, 92, 93))
    )
    device = StepRunner(1, 4, blocks=8)
    for number in range(2):
        request = replace(make_request(f"r{number}", (number + 20,), most=4), stop_ids=NOTHING)
        sequence = SequenceState(number, request, 0, ())
        scheduler.add(sequence)
    while scheduler.running or scheduler.waiting:
        run_one(scheduler, device)  # which checks the size of the step
    assert scheduler.counts.preemptions == 0
    assert scheduler.counts.draft_tokens > 0


def test_nothing_is_drafted_for_the_last_token() -> None:
    scheduler = Scheduler(
        BlockPool(8, 1), max_num_seqs=4, max_batched_tokens=8, drafts=Fixing((90, 91, 92))
    )
    request = make_request("r", (1, 2), most=3)
    sequence = SequenceState(0, request, 0, (5,))
    scheduler.add(sequence)
    first = scheduler.plan()
    assert first is not None
    scheduler.apply(first, [[SampledToken(9)]])
    second = scheduler.plan()
    assert second is not None
    assert [chunk.drafts for chunk in second.chunks] == [()]
