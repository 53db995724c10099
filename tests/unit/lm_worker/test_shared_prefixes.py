"""A beginning that several sequences have is computed once, and nobody waits for it in vain.

What is computed is counted: it is right when every token that differs from all others, with what
comes before it, is computed once.
"""

from dataclasses import replace

import pytest

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import SequenceState
from tests.unit.lm_worker.callers import CALLERS, OWN, SIZE, SYSTEM, Bench, question, whole_prompt
from tests.unit.lm_worker.simulated_steps import (
    NUM_IMAGE_TOKENS,
    StepRunner,
    make_request,
    num_tokens,
    run_one,
)


@pytest.mark.parametrize("block_size", [1, 4, 16, 128])
@pytest.mark.parametrize("image", ["", "an image"])
@pytest.mark.parametrize("step", [7, 20, 1000])
def test_sixteen_callers_compute_what_they_share_once(
    step: int, image: str, block_size: int
) -> None:
    bench = Bench(step=step, block_size=block_size)
    bench.add([question(number, image=image) for number in range(CALLERS)])
    bench.finish()
    bench.check_answers()
    counts = bench.scheduler.counts
    assert counts.computed_tokens == whole_prompt(image) + (CALLERS - 1) * OWN
    assert counts.cached_tokens == (CALLERS - 1) * (whole_prompt(image) - OWN)


@pytest.mark.parametrize("block_size", [16, 128])
def test_sixteen_callers_with_an_image_of_the_real_size_compute_hardly_more_than_one(
    block_size: int,
) -> None:
    tokens = 1602  # of an image of GLM-4V-9B
    scheduler = Scheduler(BlockPool(2000, block_size), max_num_seqs=64, max_batched_tokens=512)
    device = StepRunner(block_size, 512, blocks=2000)
    for number in range(CALLERS):
        sequence = SequenceState(number, question(number, image="image"), tokens, ())
        scheduler.add(sequence)
    while (plan := scheduler.plan()) is not None:
        scheduler.apply(plan, device.execute(plan))
    one = len(SYSTEM) + 3 + tokens - 3
    assert scheduler.counts.sampled_tokens == CALLERS
    assert scheduler.counts.computed_tokens == one + (CALLERS - 1) * OWN  # 1.03 times one


@pytest.mark.parametrize("block_size", [4, 16, 128])
def test_questions_that_share_some_of_their_words_compute_the_others(block_size: int) -> None:
    """Three levels of beginnings: all, the two halves, each caller."""
    bench = Bench(block_size=block_size)
    for number in range(CALLERS):
        words = (*SYSTEM, *range(300 + number % 2, 341 + number % 2), 1000 + number, 1001)
        bench.add([make_request(f"r{number}", words, most=1, client=f"client {number}")])
    bench.finish()
    bench.check_answers()
    assert bench.scheduler.counts.computed_tokens == 60 + 2 * 41 + CALLERS * 2


@pytest.mark.parametrize("block_size", [16, 128])
def test_a_finished_answer_is_gone_on_from_within_a_block(block_size: int) -> None:
    bench = Bench(block_size=block_size)
    asked = replace(make_request("first", SYSTEM, most=30), stop_ids=frozenset())
    bench.add([asked])
    bench.finish()
    [first] = bench.sequences
    # All but the last token, which was never fed back, and what is asked next.
    bench.add([make_request("again", (*SYSTEM, *first.token_ids, 900, 901), most=1)])
    assert bench.step() == {1: 3}
    # One that leaves the answer after ten tokens.
    bench.add([make_request("other", (*SYSTEM, *first.token_ids[:10], 902), most=1)])
    assert bench.step() == {2: 1}
    bench.check_answers()


def test_a_preempted_sequence_computes_one_token_again() -> None:
    bench = Bench(block_size=128)
    bench.add([replace(question(0), max_tokens=9, stop_ids=frozenset())])
    for _ in range(4):
        bench.step()
    bench.scheduler._preempt(bench.sequences[0])
    assert bench.step() == {0: 1}
    bench.finish()
    bench.check_answers()


@pytest.mark.parametrize(
    ("beginning", "image", "salt", "shared"),
    [
        (SYSTEM, "one", "", whole_prompt("one") - OWN),
        (SYSTEM, "other", "", 2),  # the text before the image
        (SYSTEM, "", "", 2),
        (SYSTEM, "one", "mine", 0),
        (SYSTEM[1:], "one", "", 0),  # the same tokens, at other places
        ((*SYSTEM[:40], 1, *SYSTEM[41:]), "one", "", 40 + NUM_IMAGE_TOKENS - 3),
    ],
)
def test_only_equal_tokens_of_equal_images_are_shared(
    beginning: tuple[int, ...], image: str, salt: str, shared: int
) -> None:
    bench = Bench(block_size=128)
    bench.add([question(0, image="one")])
    bench.finish()
    bench.device.salts[1] = salt
    bench.add([replace(question(1, beginning=beginning, image=image), cache_salt=salt)])
    length = bench.sequences[1].num_known_tokens
    assert bench.step() == {1: length - shared}
    assert bench.scheduler.counts.cached_tokens == shared
    bench.check_answers()


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
    own = OWN
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
    assert bench.step() == {1: OWN, 2: OWN}


def test_planning_with_many_that_share_a_beginning_stays_cheap() -> None:
    bench = Bench(step=64)
    bench.add([question(number) for number in range(500)])
    assert num_tokens(run_one(bench.scheduler, bench.device)) == 63
    bench.finish()
    assert bench.scheduler.counts.computed_tokens == whole_prompt() + 499 * 3
