"""A beginning that several sequences have is computed once, and nobody waits for it in vain."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import SequenceRequest, SequenceState
from tests.unit.lm_worker.simulated_steps import (
    NUM_IMAGE_TOKENS,
    StepRunner,
    alone,
    make_request,
    num_tokens,
    run_one,
)

SIZE = 4  # tokens of a block
SYSTEM = tuple(range(100, 160))
CALLERS = 16


class Bench:
    """A scheduler on its device, with sequences that were added to it."""

    def __init__(
        self, *, step: int = 1000, max_num_seqs: int = 64, broken: set[int] | None = None
    ) -> None:
        self.scheduler = Scheduler(
            BlockPool(2000, SIZE), max_num_seqs=max_num_seqs, max_batched_tokens=step
        )
        self.device = StepRunner(SIZE, step, broken=broken, blocks=2000)
        self.sequences: list[SequenceState] = []

    def add(self, requests: Sequence[SequenceRequest]) -> None:
        for request in requests:
            number = len(self.sequences)
            self.sequences.append(SequenceState(number, request, NUM_IMAGE_TOKENS, ()))
            self.scheduler.add(self.sequences[-1])

    def step(self) -> dict[int, int]:
        """The tokens that each sequence computed in one step."""
        plan = run_one(self.scheduler, self.device)
        assert self.scheduler.check_integrity() == []
        return {chunk.sequence_id: len(chunk.token_ids) for chunk in plan.chunks}

    def finish(self) -> None:
        for _ in range(1000):
            if not (self.scheduler.running or self.scheduler.waiting):
                return
            self.step()
        raise AssertionError("a sequence never ends")

    def check_answers(self) -> None:
        for sequence in self.sequences:
            if sequence.sequence_id not in self.device.broken:
                assert sequence.token_ids == alone(sequence.request), sequence.request.request_id


def question(
    number: int, *, beginning: tuple[int, ...] = SYSTEM, image: str = ""
) -> SequenceRequest:
    """A request of a client of its own that begins like the others."""
    prompt = (*beginning, 1000 + number, 1001, 1002)
    return make_request(f"r{number}", prompt, most=1, image=image, client=f"client {number}")


def whole_prompt(image: str = "") -> int:
    return len(SYSTEM) + 3 + (NUM_IMAGE_TOKENS - 3 if image else 0)


def shared_part(image: str = "") -> int:
    return (whole_prompt(image) - 3) // SIZE * SIZE


@pytest.mark.parametrize("image", ["", "an image"])
@pytest.mark.parametrize("step", [7, 20, 1000])
def test_sixteen_callers_compute_what_they_share_once(step: int, image: str) -> None:
    bench = Bench(step=step)
    bench.add([question(number, image=image) for number in range(CALLERS)])
    bench.finish()
    bench.check_answers()
    own = whole_prompt(image) - shared_part(image)
    computed = bench.scheduler.counts.computed_tokens
    assert computed == whole_prompt(image) + (CALLERS - 1) * own


def test_sixteen_callers_with_an_image_of_the_real_size_compute_a_fifth_more_than_one() -> None:
    tokens = 1602  # of an image of GLM-4V-9B
    scheduler = Scheduler(BlockPool(2000, 16), max_num_seqs=64, max_batched_tokens=512)
    device = StepRunner(16, 512, blocks=2000)
    for number in range(CALLERS):
        sequence = SequenceState(number, question(number, image="image"), tokens, ())
        scheduler.add(sequence)
    while (plan := scheduler.plan()) is not None:
        scheduler.apply(plan, device.execute(plan))
    one = len(SYSTEM) + 3 + tokens - 3
    assert scheduler.counts.sampled_tokens == CALLERS
    assert scheduler.counts.computed_tokens <= 1.2 * one


def test_whoever_computes_it_has_the_whole_step() -> None:
    bench = Bench(step=SIZE * 4)
    bench.add([question(number) for number in range(CALLERS)])
    assert bench.step() == {0: SIZE * 4}  # though sixteen clients wait


@pytest.mark.parametrize("how", ["cancelled", "failed", "preempted"])
def test_the_next_one_takes_over(how: str) -> None:
    bench = Bench(step=20, broken={0} if how == "failed" else None)
    bench.add([question(number) for number in range(4)])
    first = bench.sequences[0]
    computed = bench.step()
    if how == "cancelled":
        bench.scheduler.remove(first)
        bench.sequences.pop(0)
    elif how == "preempted":
        bench.scheduler._preempt(first)
    while bench.scheduler.running or bench.scheduler.waiting:
        for number, count in bench.step().items():
            computed[number] = computed.get(number, 0) + count
    bench.check_answers()
    own = whole_prompt() - shared_part()
    if how == "preempted":  # it is still the first in order
        assert computed == {0: 20 + whole_prompt(), 1: own, 2: own, 3: own}
    else:
        before = 20 if how == "cancelled" else whole_prompt()
        assert computed == {0: before, 1: whole_prompt(), 2: own, 3: own}


def test_one_that_shares_nothing_does_not_wait() -> None:
    bench = Bench(step=40)
    bench.add([question(0), question(1)])
    assert bench.step() == {0: 40}
    bench.add([question(2, beginning=tuple(range(500, 520)))])
    assert bench.step() == {0: 20, 2: 20}  # two clients share the step


def test_nobody_waits_long_to_save_little() -> None:
    bench = Bench(step=40)
    long = make_request("long", (*SYSTEM, *range(2000, 2500)), most=1, client="long")
    bench.add([long, question(1)])
    assert bench.step() == {0: 20, 1: 20}
    bench.finish()
    bench.check_answers()


@pytest.mark.parametrize("kept", [None, 0])
def test_prompt_logprobs_are_computed_without_waiting(kept: int | None) -> None:
    bench = Bench(step=100)
    bench.add([question(0), replace(question(1), prompt_logprobs=kept)])
    assert bench.step() == ({0: 63} if kept is None else {0: 50, 1: 50})


def test_more_is_claimed_while_sequences_wait_for_a_beginning() -> None:
    bench = Bench(step=20)
    bench.add([question(number) for number in range(CALLERS)])
    assert not bench.scheduler.has_capacity
    for _ in range(2):
        bench.step()
        assert bench.scheduler.has_capacity
    bench.add([question(99, beginning=tuple(range(500, 560)))])
    assert not bench.scheduler.has_capacity


def test_nothing_is_preempted_for_one_that_waits_for_a_beginning() -> None:
    bench = Bench(step=20, max_num_seqs=3)
    answers = [make_request(f"a{n}", (n + 10,), most=9, client="many") for n in range(2)]
    bench.add([replace(answer, stop_ids=frozenset()) for answer in answers])
    bench.step()
    bench.add([replace(question(0), client="many"), question(1)])
    bench.step()
    assert bench.scheduler.counts.preemptions == 0
    bench.step()
    assert bench.scheduler.running == 3
    bench.finish()
    bench.check_answers()


def test_a_block_that_a_decode_fills_is_awaited() -> None:
    """A prompt of which one token is left is a decode, but its blocks cannot be reused yet."""
    bench = Bench(step=whole_prompt() - 1)
    bench.add([question(number) for number in range(3)])
    assert bench.step() == {0: whole_prompt() - 1}
    assert bench.step() == {0: 1}
    own = whole_prompt() - shared_part()
    assert bench.step() == {1: own, 2: own}


def test_planning_with_many_that_share_a_beginning_stays_cheap() -> None:
    bench = Bench(step=64)
    bench.add([question(number) for number in range(500)])
    assert num_tokens(run_one(bench.scheduler, bench.device)) == 63
    bench.finish()
    assert bench.scheduler.counts.computed_tokens == whole_prompt() + 499 * 3
