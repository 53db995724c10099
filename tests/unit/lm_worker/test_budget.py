"""The prefill tokens of a step, on devices of several speeds."""

import math

import pytest

from lm_worker.engine.budget import StepBudget

MAX_BATCHED_TOKENS = 512


class Clock:
    """Times of a device: for any step, for a decode, for a prefill row, for a chunk; seconds."""

    def __init__(self, step: float, decode: float, row: float, chunk: float = 0.0) -> None:
        self._step, self._decode, self._row, self._chunk = step, decode, row, chunk

    def seconds(self, decodes: int, rows: int) -> float:
        chunk = self._chunk if rows else 0.0
        return self._step + decodes * self._decode + rows * self._row + chunk


def run(budget: StepBudget, clock: Clock, decodes: int, prefills: int, steps: int) -> list[int]:
    """The rows of prefills in each step."""
    planned = []
    for _ in range(steps):
        rows = budget.prefill_tokens(decodes, prefills)
        budget.observe(decodes, rows, clock.seconds(decodes, rows))
        planned.append(rows)
    return planned


SLOW = Clock(step=0.01, decode=0.002, row=0.001)
FAST = Clock(step=0.01, decode=1e-5, row=1e-5)


@pytest.mark.parametrize("clock", [SLOW, Clock(0.0, 0.003, 0.002), Clock(0.02, 0.001, 3e-4, 0.004)])
def test_one_prompt_slows_steps_by_the_allowed_factor(clock: Clock) -> None:
    budget = StepBudget(MAX_BATCHED_TOKENS, 1.75)
    budget.observe(0, MAX_BATCHED_TOKENS, clock.seconds(0, MAX_BATCHED_TOKENS))
    settled = [rows for rows in run(budget, clock, decodes=8, prefills=1, steps=60)[20:] if rows]
    longest = max(clock.seconds(8, rows) for rows in settled) / clock.seconds(8, 0)
    assert 1.5 < longest <= 1.80


def test_steps_are_full_where_prefill_tokens_are_free() -> None:
    budget = StepBudget(MAX_BATCHED_TOKENS, 1.75)
    budget.observe(0, 40, FAST.seconds(0, 40))
    assert run(budget, FAST, decodes=8, prefills=1, steps=20)[-1] == MAX_BATCHED_TOKENS - 8


def test_many_prompts_get_as_much_time_each_as_a_decode() -> None:
    few, many = (StepBudget(MAX_BATCHED_TOKENS, 1.2) for _ in range(2))
    alone = run(few, SLOW, decodes=10, prefills=1, steps=30)[-1]
    beside = run(many, SLOW, decodes=10, prefills=6, steps=30)[-1]
    assert beside == pytest.approx(0.6 / 0.2 * alone, rel=0.3)


def test_prefills_get_the_whole_budget_when_many_requests_wait() -> None:
    budget = StepBudget(MAX_BATCHED_TOKENS, 1.75)
    run(budget, SLOW, decodes=4, prefills=1, steps=30)
    assert budget.prefill_tokens(decodes=4, prefills=3) < 50
    assert budget.prefill_tokens(decodes=4, prefills=4) == MAX_BATCHED_TOKENS - 4


def test_an_outlier_step_is_soon_forgotten() -> None:
    budget = StepBudget(MAX_BATCHED_TOKENS, 1.75)
    before = run(budget, SLOW, decodes=8, prefills=1, steps=60)[-1]
    budget.observe(8, 0, 5.0)
    assert budget.prefill_tokens(8, 1) < 3 * before


def test_a_prefill_progresses_however_expensive_its_tokens_are() -> None:
    budget = StepBudget(MAX_BATCHED_TOKENS, 1.1)
    dear = Clock(0.001, 0.0, 1e-5, chunk=0.1)
    planned = run(budget, dear, decodes=8, prefills=1, steps=40)
    assert planned.count(0) == 2  # steps that measure the decodes
    assert sorted(planned)[2] == 8


def test_decode_only_steps_are_measured_now_and_then() -> None:
    budget = StepBudget(MAX_BATCHED_TOKENS, 1.75)
    run(budget, SLOW, decodes=8, prefills=1, steps=100)
    slower = Clock(step=0.05, decode=0.002, row=0.001)  # contexts have grown
    planned = run(budget, slower, decodes=8, prefills=1, steps=1000)
    assert planned.count(0) < 40
    assert slower.seconds(8, planned[-1]) == pytest.approx(1.75 * slower.seconds(8, 0), rel=0.1)


def test_prefills_get_the_rest_of_the_step_without_a_limit() -> None:
    assert (
        run(StepBudget(MAX_BATCHED_TOKENS, math.inf), SLOW, decodes=8, prefills=1, steps=3)
        == [504] * 3
    )
    assert StepBudget(MAX_BATCHED_TOKENS, 1.75).prefill_tokens(0, 1) == MAX_BATCHED_TOKENS
    assert StepBudget(4, 1.75).prefill_tokens(8, 1) == 0


def shared(clock: Clock, fair: int, wanted: int, steps: int = 200) -> list[int]:
    """The decodes of each step that clients with unequal numbers share."""
    budget = StepBudget(MAX_BATCHED_TOKENS, 1.75)
    planned = []
    for _ in range(steps):
        decodes = budget.decodes(fair, wanted)
        budget.observe(decodes, 0, clock.seconds(decodes, 0))
        planned.append(decodes)
    return planned


def test_many_decodes_of_one_client_slow_one_with_few_by_half() -> None:
    planned = shared(SLOW, fair=2, wanted=60)
    assert SLOW.seconds(planned[-2], 0) == pytest.approx(1.5 * SLOW.seconds(2, 0), rel=0.1)
    assert planned.count(2) < 10  # steps that measure
    assert planned[:4] == [60, 60, 2, planned[-2]]


def test_decodes_that_cost_hardly_anything_are_all_in_the_step() -> None:
    planned = shared(FAST, fair=2, wanted=60)
    assert planned.count(60) > 190


def test_equal_clients_share_steps_whatever_they_cost() -> None:
    assert set(shared(SLOW, fair=60, wanted=60)) == {60}
