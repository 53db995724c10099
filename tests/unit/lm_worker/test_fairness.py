"""A client with many requests does not delay one with few."""

from collections import Counter
from dataclasses import replace

import pytest

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.fairness import fair_decodes, share, underserved
from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import SequenceState
from tests.unit.lm_worker.simulated_steps import StepRunner, alone, make_request, run_one

TOKENS = 8  # of a step


class Bench:
    """A scheduler on its device, and who was answered."""

    def __init__(self, *, max_num_seqs: int = 4, blocks: int = 400) -> None:
        self.scheduler = Scheduler(
            BlockPool(blocks, 1), max_num_seqs=max_num_seqs, max_batched_tokens=TOKENS
        )
        self.device = StepRunner(1, TOKENS)
        self.sequences: dict[int, SequenceState] = {}

    def ask(
        self, client: str, *, prompt: int = 2, most: int = 1, priority: int = 3
    ) -> SequenceState:
        number = len(self.sequences)
        ids = tuple(range(100 * number + 100, 100 * number + 100 + prompt))
        request = make_request(f"r{number}", ids, most=most, priority=priority, client=client)
        # Answers are as long as they may be.
        sequence = SequenceState(number, replace(request, stop_ids=frozenset()), 0, ())
        self.sequences[number] = sequence
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> set[int]:
        """The sequences that took part."""
        return {chunk.sequence_id for chunk in run_one(self.scheduler, self.device).chunks}

    def timed_step(self) -> int:
        """The chunks of a step on a device that takes a second for each and two for the step."""
        plan = self.scheduler.plan()
        assert plan is not None
        self.scheduler.apply(plan, self.device.execute(plan), 2.0 + len(plan.chunks))
        return len(plan.chunks)

    def running(self) -> Counter[str]:
        """Sequences with blocks, by client."""
        running = (each for each in self.sequences.values() if each.block_table)
        return Counter(each.request.client for each in running)


def test_a_client_with_one_request_goes_before_one_with_many() -> None:
    bench = Bench(max_num_seqs=8)
    for _ in range(30):
        bench.ask("many", most=50, priority=1)
    bench.step()
    one = bench.ask("one", priority=5)
    assert one.sequence_id in bench.step()


def test_a_client_with_one_request_preempts_in_a_full_batch() -> None:
    bench = Bench(max_num_seqs=4)
    many = [bench.ask("many", most=50) for _ in range(6)]
    for _ in range(3):
        bench.step()
    assert bench.running() == {"many": 4}
    for _ in range(6):
        bench.ask("other", most=50)
    for _ in range(6):
        bench.step()
        assert many[0].block_table  # the first is never preempted
    assert bench.running() == {"many": 2, "other": 2}
    assert bench.scheduler.counts.preemptions == 2


def test_a_client_with_one_request_preempts_in_a_full_cache() -> None:
    bench = Bench(max_num_seqs=8, blocks=30)
    for _ in range(4):
        bench.ask("many", prompt=6, most=20)
    for _ in range(4):
        bench.step()
    one = bench.ask("one", prompt=8)
    for _ in range(6):
        bench.step()
    assert len(one.token_ids) == 1
    assert bench.scheduler.check_integrity() == []


def test_long_prompts_of_one_client_do_not_keep_another_from_its_first_token() -> None:
    bench = Bench()
    for _ in range(3):
        bench.ask("many", prompt=40)
    bench.step()
    one = bench.ask("one", prompt=TOKENS // 2)
    bench.step()
    assert len(one.token_ids) == 1


def test_equal_clients_are_served_alike_and_answers_stay_the_same() -> None:
    bench = Bench(max_num_seqs=3, blocks=60)
    clients = ["a"] * 12 + ["b"] * 12 + ["c"] * 12
    for client in clients:
        bench.ask(client, most=5)
    ended: list[str] = []
    while len(ended) < len(clients):
        bench.step()
        over = [each for each in bench.sequences.values() if len(each.token_ids) == 5]
        ended += [each.request.client for each in over[len(ended) :]]
        done = Counter(each.request.client for each in over)
        assert max(done.values(), default=0) - min(done[name] for name in "abc") <= 2
    for sequence in bench.sequences.values():
        assert sequence.token_ids == alone(sequence.request)
    assert bench.scheduler.check_integrity() == []


def test_a_step_that_clients_share_has_few_decodes_of_the_one_with_many() -> None:
    bench = Bench(max_num_seqs=8)
    many = [bench.ask("many", most=60) for _ in range(6)]
    for _ in range(12):
        bench.timed_step()
    one = bench.ask("one", most=20)
    before = [len(each.token_ids) for each in many]
    sizes = [bench.timed_step() for _ in range(20)]
    assert len(one.token_ids) == 20  # in each step, from its prefill on
    assert max(sizes[2:]) <= 4  # of 7
    progress = [len(each.token_ids) - at for each, at in zip(many, before, strict=True)]
    assert min(progress) > 0
    assert max(progress) - min(progress) <= 3  # in turns
    for sequence in many:
        assert sequence.token_ids == alone(sequence.request)[: len(sequence.token_ids)]


def test_shares_of_a_step_are_even_and_those_left_out_come_first() -> None:
    bench = Bench(max_num_seqs=8)
    sequences = [bench.ask(client) for client in ["many"] * 4 + ["few"] * 2]
    for number, sequence in enumerate(sequences):
        sequence.decoded_at = 10 - number
    assert fair_decodes(sequences[:5], sequences[5:]) == 3  # two of each, one of which decodes
    assert share(sequences, 3) == sequences[3:]
    assert share(sequences, 5) == sequences[1:]
    assert share(sequences, 9) == sequences


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([], []),
        (["many"], []),
        (["many"] * 2, ["one", ""]),
        ([*["many"] * 3, "one"], ["one", ""]),
        ([*["many"] * 3, "one", "one"], [""]),
    ],
)
def test_underserved_clients_are_claimed_for_beyond_the_capacity(
    held: list[str], expected: list[str]
) -> None:
    assert underserved(["many", "one", ""], held) == expected
