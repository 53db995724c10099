"""Commands survive the way to the other ranks unchanged."""

import pytest

from glm4v.tensor_bytes import TensorBytes
from lm_worker.parallel.commands import (
    AddImage,
    Command,
    DropImage,
    Heartbeat,
    Stop,
    decode,
    encode,
)
from lm_worker.plan import Chunk, SamplingParams, SamplingState, StepPlan

PARAMS = SamplingParams(
    0.7, 5, 0.9, 1.1, 2**64 - 1, True, 2, 0.8, 0.1, -2.0, 2.0, logit_bias=((3, -100.0), (4, 0.1))
)
SPEC = SamplingState(PARAMS, 3, (1, 2), (2, 2), forbidden_ids=(7,), grammar=5, stop_ids=(7, 8))
PLAN = StepPlan(
    7,
    (
        Chunk(1, (5, -1, -2), (0, 1, 1), 0, (3, 4), "digest", None),
        Chunk(2, (6,), (9,), 9, (0,), "", SPEC),
    ),
)


@pytest.mark.parametrize("command", [PLAN, DropImage("digest"), Heartbeat(), Stop()])
def test_a_command_comes_out_as_it_went_in(command: Command) -> None:
    assert decode(encode(command)) == command


def test_an_image_comes_out_with_its_values() -> None:
    rows = TensorBytes("float32", (1, 2), b"12345678")
    command = decode(encode(AddImage("digest", rows)))
    assert isinstance(command, AddImage)
    assert (command.digest, command.embedding.shape, bytes(command.embedding.data)) == (
        "digest",
        (1, 2),
        b"12345678",
    )
