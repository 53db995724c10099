"""Scheduler and block pool under random arrivals and cancels, on the simulated device."""

import math
import random
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import PRIORITIES, SequenceRequest, SequenceState
from lm_worker.parallel.plan_delta import PlanDecoder, PlanEncoder
from lm_worker.plan import NO_TOKEN, OutputFormat, StepPlan
from tests.guesser import GuessingPlanner
from tests.unit.lm_worker.simulated_steps import (
    NUM_IMAGE_TOKENS,
    StepRunner,
    alone,
    make_request,
    num_tokens,
    run_one,
)


@dataclass
class Crowd:
    """Requests that arrive and leave at random, and their output."""

    rng: random.Random
    scheduler: Scheduler
    device: StepRunner
    encoder: PlanEncoder = field(default_factory=PlanEncoder)
    decoder: PlanDecoder = field(default_factory=PlanDecoder)
    live: list[SequenceState] = field(default_factory=list)
    asked: dict[str, SequenceRequest] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)
    began: dict[int, int] = field(default_factory=dict)  # tokens from another worker
    published: dict[int, int] = field(default_factory=dict)

    def arrive(self, number: int) -> None:
        """One more request, unless it could never run."""
        rng = self.rng
        breaks = rng.random() < 0.05
        prompt = tuple(rng.choice([[1, 2, 3, 4, 5, 6], [1, 2, 9], [1, 2, 3, 4, 5, 8, 8, 8]]))
        request = make_request(
            f"r{number}",
            prompt,
            most=rng.randint(1, 12),
            image=rng.choice(["", "a", "b"]) if len(prompt) > 4 else "",
            priority=rng.choice(PRIORITIES),
            client=rng.choice(["", "", "one", "other"]),
            # Those that break build on nothing, so that no row of theirs is sound.
            salt=f"broken {number}" if breaks else rng.choice(["", "", "mine"]),
        )
        # Some come from another worker and have tokens already.
        tokens = tuple(alone(request)[: rng.choice([0, 0, 0, 3])])[: request.max_tokens - 1]
        quarantined = rng.random() < 0.1
        sequence = SequenceState(
            number, request, NUM_IMAGE_TOKENS, tokens, is_quarantined=quarantined
        )
        if self.scheduler.can_ever_run(sequence) and not sequence.is_over():
            self.device.salts[number] = request.cache_salt
            if breaks:
                self.device.broken.add(number)
            else:
                self.asked[request.request_id] = request
            self.device.answers[number] = alone(request)
            self.scheduler.add(sequence)
            self.began[number] = len(tokens)
            self.live.append(sequence)

    def leave(self) -> None:
        """Cancel one."""
        victim = self.live.pop(self.rng.randrange(len(self.live)))
        self.scheduler.remove(victim)
        self.asked.pop(victim.request.request_id, None)

    def check_followers(self, plan: StepPlan) -> None:
        """The other ranks get the plan, but for its sampling."""
        got = self.decoder.decode(self.encoder.encode(plan))
        assert len(got.chunks) == len(plan.chunks)
        assert got.copies == plan.copies
        for sent, received in zip(plan.chunks, got.chunks, strict=True):
            assert sent.num_sampled == received.num_sampled
            without = replace(sent, sampling=None, drafts=())
            image = sent.image if min(sent.token_ids) < 0 else ""
            assert replace(without, image=image) == replace(received, sampling=None, drafts=())
        assert self.decoder._tables.keys() <= {one.sequence_id for one in self.live}

    def step(self, cancels: float) -> bool:
        """One step, with a cancellation while it runs; False if there is nothing to do."""
        plan = self.scheduler.plan()
        if plan is not None:
            self.check_followers(plan)
        if self.live and self.rng.random() < cancels:
            self.leave()
        if plan is not None:
            # Steps of any length: the budget may change, the answers may not.
            seconds = self.rng.choice([None, 0.0, 0.001, 1.0]) and self.rng.random()
            by_id = {one.sequence_id: one for one in self.live}
            for output in self.scheduler.apply(plan, self.device.execute(plan), seconds):
                one = by_id[output.sequence_id]
                has_token = output.sampled.token_id != NO_TOKEN
                assert output.index == self.published.get(
                    one.sequence_id, self.began[one.sequence_id]
                )
                self.published[one.sequence_id] = output.index + has_token
                assert output.is_last == (
                    not has_token
                    or (one.is_over() and self.published[one.sequence_id] == len(one.token_ids))
                )
                if output.is_last:
                    self.live.remove(one)
                    self.answers[one.request.request_id] = one.token_ids
        assert self.scheduler.check_integrity() == []
        return plan is not None


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    block_size=st.sampled_from([1, 3, 16, 64]),
    blocks=st.integers(8, 40),
    max_batched_tokens=st.sampled_from([1, 5, 64]),
    prefill_slowdown=st.sampled_from([1.0, 1.75, math.inf]),
    prefix_cache=st.booleans(),
    drafts=st.booleans(),
)
def test_output_is_that_of_a_run_alone_and_every_block_is_freed(
    seed: int,
    block_size: int,
    blocks: int,
    max_batched_tokens: int,
    prefill_slowdown: float,
    prefix_cache: bool,
    drafts: bool,
) -> None:
    rng = random.Random(seed)
    scheduler = Scheduler(
        BlockPool(blocks, block_size),
        max_num_seqs=6,
        max_batched_tokens=max_batched_tokens,
        prefill_slowdown=prefill_slowdown,
        prefix_cache=prefix_cache,
        drafts=GuessingPlanner(rng, lambda one: alone(one.request)) if drafts else None,
    )
    device = StepRunner(block_size, max_batched_tokens, forces=rng if drafts else None)
    crowd = Crowd(rng, scheduler, device)
    for number in range(200):
        if len(crowd.live) < 20 and crowd.rng.random() < 0.3:
            crowd.arrive(number)
        crowd.step(cancels=0.05)
    steps = 0
    while crowd.step(cancels=0.0):
        steps += 1
        assert steps < 5000, "a request never finishes"
    assert crowd.live == []
    for name, request in crowd.asked.items():
        assert crowd.answers[name] == alone(request)
    assert scheduler.running == scheduler.waiting == 0
    assert scheduler.pool.available == blocks


def rows_computed(scheduler: Scheduler, device: StepRunner, sequence: SequenceState) -> int:
    """Rows of the one step that a request for one token takes."""
    device.salts[sequence.sequence_id] = sequence.request.cache_salt
    scheduler.add(sequence)
    plan = run_one(scheduler, device)
    assert scheduler.running == 0
    return num_tokens(plan)


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_second_request_about_an_image_computes_only_new_tokens(
    prefix_cache: bool,
) -> None:
    scheduler = Scheduler(
        BlockPool(64, 4), max_num_seqs=4, max_batched_tokens=1000, prefix_cache=prefix_cache
    )
    device = StepRunner(4, 1000)
    prompt = (1, 2, 3, 4, 5, 10, 11, 12)

    def rows(number: int, image: str, salt: str = "") -> int:
        request = make_request("r", prompt, most=1, image=image, salt=salt)
        return rows_computed(scheduler, device, SequenceState(number, request, 18, ()))

    whole = len(prompt) + NUM_IMAGE_TOKENS - 3
    known = whole - 1 if prefix_cache else 0  # the last one is computed for its logits
    assert rows(0, "a") == whole
    assert rows(1, "a") == whole - known
    # The text before the image is the same.
    assert rows(2, "b") == (whole - 2 if prefix_cache else whole)
    assert rows(3, "a", salt="mine") == whole
    assert rows(4, "a", salt="mine") == whole - known
    assert rows(5, "a", salt="other") == whole


@pytest.mark.parametrize("max_batched_tokens", [7, 1000])
def test_concurrent_requests_about_an_image_prefill_it_once(
    max_batched_tokens: int,
) -> None:
    scheduler = Scheduler(BlockPool(64, 4), max_num_seqs=4, max_batched_tokens=max_batched_tokens)
    device = StepRunner(4, max_batched_tokens)
    prompt = (1, 2, 3, 4, 5, 10, 11, 12)
    for number, image in enumerate(["a", "a", "b", "a"]):
        request = make_request(f"r{number}", prompt, most=1, image=image)
        scheduler.add(SequenceState(number, request, NUM_IMAGE_TOKENS, ()))
    computed: Counter[int] = Counter()
    while (plan := scheduler.plan()) is not None:
        scheduler.apply(plan, device.execute(plan))
        computed.update({chunk.sequence_id: len(chunk.token_ids) for chunk in plan.chunks})
    whole = len(prompt) + NUM_IMAGE_TOKENS - 3
    # Of the image "b" only the text before it was shared, with whatever was computed first.
    assert computed == {0: whole, 1: 1, 2: computed[2], 3: 1}
    assert whole - 2 <= computed[2] <= whole


def test_blocks_with_non_finite_values_are_not_reused() -> None:
    scheduler = Scheduler(BlockPool(64, 4), max_num_seqs=4, max_batched_tokens=1000)
    device = StepRunner(4, 1000, broken={0, 1})
    prompt = tuple(range(10, 22))
    for number, expected in enumerate([12, 12, 12, 1]):  # the third is sound, the fourth builds
        request = make_request("r", prompt, most=1)
        assert rows_computed(scheduler, device, SequenceState(number, request, 0, ())) == expected
    assert scheduler.check_integrity() == []
    assert scheduler.pool.available == 64


def test_blocks_are_not_reused_after_a_later_non_finite_value() -> None:
    scheduler = Scheduler(BlockPool(64, 4), max_num_seqs=4, max_batched_tokens=1000)
    device = StepRunner(4, 1000)
    prompt = tuple(range(10, 22))
    scheduler.add(SequenceState(0, make_request("r", prompt, most=5), 0, ()))
    run_one(scheduler, device)
    device.broken.add(0)
    run_one(scheduler, device)
    assert scheduler.running == 0
    again = SequenceState(1, make_request("r", prompt, most=1), 0, ())
    assert rows_computed(scheduler, device, again) == len(prompt)


def test_blocks_are_not_reused_before_a_finite_logit() -> None:
    scheduler = Scheduler(BlockPool(64, 4), max_num_seqs=4, max_batched_tokens=8)
    device = StepRunner(4, 8, broken={0})
    prompt = tuple(range(10, 22))
    scheduler.add(SequenceState(0, make_request("broken", prompt, most=1), 0, ()))
    run_one(scheduler, device)
    scheduler.add(SequenceState(1, make_request("sound", prompt, most=1), 0, ()))
    for expected in [(0, 8, 4), (1, 0, 8), (1, 8, 4)]:
        [chunk] = run_one(scheduler, device).chunks
        assert (chunk.sequence_id, chunk.context_len, len(chunk.token_ids)) == expected


HEADER = 9


@pytest.mark.parametrize("form", [None, OutputFormat("regex", "a")])
def test_the_header_token_is_no_stop_token(form: OutputFormat | None) -> None:
    request = replace(
        make_request("r", (1, 2), most=3),
        stop_ids=frozenset({7, HEADER}),
        header_id=HEADER,
        min_tokens=2,
        output_format=form,
    )
    sequence = SequenceState(0, request, 0, ())
    first = sequence.sampling_state()
    assert (first.forbidden_ids, first.stop_ids) == ((7,), (7, HEADER) if form else ())
    assert first.header_id == (HEADER if form else NO_TOKEN)
    sequence.add_token(HEADER)
    assert not sequence.is_over()
    second = sequence.sampling_state()
    assert (second.forbidden_ids, second.stop_ids) == ((7, HEADER), (7, HEADER) if form else ())
    sequence.add_token(HEADER)
    assert sequence.is_over()


def test_a_next_chat_turn_computes_only_new_tokens() -> None:
    scheduler = Scheduler(BlockPool(64, 1), max_num_seqs=4, max_batched_tokens=1000)
    device = StepRunner(1, 1000)
    asked = make_request("first", (1, 2, 3, 4, 5), most=6)
    first = SequenceState(0, asked, 0, ())
    scheduler.add(first)
    while not first.is_over():
        run_one(scheduler, device)
    # All but the last token, which was never fed back, and what was asked next.
    again = make_request("second", (*asked.prompt_ids, *first.token_ids, 7, 8), most=1)
    assert rows_computed(scheduler, device, SequenceState(1, again, 0, ())) == 3


@pytest.mark.parametrize("rows", [3, 18])
def test_positions_are_those_of_the_published_model(rows: int) -> None:
    request = make_request("r", (1, 2, 3, 4, 5, 10, 11), most=4, image="a")
    sequence = SequenceState(0, request, rows, (12,))
    extra = rows - 3
    expected = [0, 1, 2, *[3] * (rows - 2), 4, 5, 6, 7]
    assert list(sequence.positions(0, sequence.num_known_tokens)) == expected
    assert sequence.num_known_tokens == len(request.prompt_ids) + extra + 1
