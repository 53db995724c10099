"""Commands reach the other ranks unchanged, plans without what only rank 0 needs."""

from dataclasses import replace

import pytest

from glm4v.tensor_bytes import TensorBytes
from lm_worker.parallel.commands import (
    AddImage,
    Command,
    CommandDecoder,
    CommandEncoder,
    DropImage,
    Heartbeat,
    Stop,
)
from lm_worker.plan import BlockCopy, Chunk, PromptScoring, SamplingParams, SamplingState, StepPlan

STATE = SamplingState(SamplingParams(0.7, 5, 0.9, 1.1), 3, tuple(range(5000)))
PREFILL = Chunk(1, (5, -1, -2), (0, 1, 1), 0, (3, 4), "digest", None)
DECODE = Chunk(2, (6,), (9,), 9, tuple(range(10, 623)), "", STATE)


@pytest.mark.parametrize("command", [DropImage("digest"), Heartbeat(), Stop()])
def test_a_command_is_decoded_as_it_was_encoded(command: Command) -> None:
    assert CommandDecoder().decode(CommandEncoder().encode(command)) == command


def test_an_image_keeps_its_values() -> None:
    rows = TensorBytes("float32", (1, 2), b"12345678")
    command = CommandDecoder().decode(CommandEncoder().encode(AddImage("digest", rows)))
    assert isinstance(command, AddImage)
    assert (command.digest, command.embedding.shape, bytes(command.embedding.data)) == (
        "digest",
        (1, 2),
        b"12345678",
    )


class Follower:
    """Decodes plans, and counts their bytes."""

    def __init__(self) -> None:
        self._encoder, self._decoder = CommandEncoder(), CommandDecoder()
        self.sizes: list[int] = []

    def follow(self, *chunks: Chunk, released: tuple[int, ...] = ()) -> list[Chunk]:
        data = self._encoder.encode(StepPlan(1, chunks, released))
        self.sizes.append(len(data))
        plan = self._decoder.decode(data)
        assert isinstance(plan, StepPlan)
        return list(plan.chunks)


def test_a_plan_carries_no_sampling_and_a_block_only_once() -> None:
    follower = Follower()
    prefill, decode = follower.follow(PREFILL, DECODE)
    assert prefill == PREFILL
    assert decode.sampling is not None, "its logits are computed by all ranks together"
    assert replace(decode, sampling=STATE) == DECODE
    grown = replace(DECODE, context_len=10, block_table=(*DECODE.block_table, 7))
    [same] = follower.follow(replace(DECODE, context_len=10))
    [more] = follower.follow(grown)
    assert same.block_table == DECODE.block_table
    assert more.block_table == grown.block_table
    assert follower.sizes[0] > 2000 > 200 > follower.sizes[1]
    assert follower.sizes[2] == follower.sizes[1] + 1


def test_a_sequence_that_released_its_blocks_gets_a_new_table() -> None:
    follower = Follower()
    follower.follow(DECODE)
    again = replace(DECODE, context_len=0, block_table=(9, 8))
    [chunk] = follower.follow(again, released=(2,))
    assert chunk.block_table == (9, 8)


def test_copies_are_made_by_all_ranks_in_the_same_order() -> None:
    copies = (BlockCopy(3, 9, 5), BlockCopy(4, 3, 100))
    encoder, decoder = CommandEncoder(), CommandDecoder()
    plan = decoder.decode(encoder.encode(StepPlan(1, (DECODE,), copies=copies)))
    assert isinstance(plan, StepPlan)
    assert plan.copies == copies


def test_prompt_logits_are_computed_by_all_ranks() -> None:
    scored = replace(PREFILL, scoring=PromptScoring((0, 2), (1, 4), (7, 8), top=5))
    [chunk] = Follower().follow(scored)
    assert chunk.scoring is not None
    assert chunk.scoring.offsets == (0, 2)
