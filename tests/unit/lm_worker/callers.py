"""Callers with one system text, and perhaps an image, on a scheduler and the simulated device."""

from collections.abc import Sequence

from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import SequenceRequest, SequenceState
from tests.unit.lm_worker.simulated_steps import (
    NUM_IMAGE_TOKENS,
    StepRunner,
    alone,
    make_request,
    run_one,
)

SIZE = 4  # tokens of a block
SYSTEM = tuple(range(100, 160))
CALLERS = 16
OWN = 3  # tokens of a question that no other one has


class Bench:
    """A scheduler on its device, with sequences that were added to it."""

    def __init__(
        self,
        *,
        step: int = 1000,
        max_num_seqs: int = 64,
        broken: set[int] | None = None,
        block_size: int = SIZE,
        blocks: int = 2000,
    ) -> None:
        self.scheduler = Scheduler(
            BlockPool(blocks, block_size), max_num_seqs=max_num_seqs, max_batched_tokens=step
        )
        self.device = StepRunner(block_size, step, broken=broken, blocks=blocks)
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
