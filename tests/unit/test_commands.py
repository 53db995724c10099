"""Commands survive the way to the other ranks unchanged."""

import pytest

from glm4v.tensor_bytes import TensorBytes
from lm_worker.commands import AddPicture, Beat, Command, DropPicture, Stop, decode, encode
from lm_worker.plan import Chunk, SampleSpec, StepPlan

SPEC = SampleSpec(0.7, 5, 0.9, 1.1, 2**64 - 1, 3, seen=(1, 2), want_logprobs=True, top_logprobs=2)
PLAN = StepPlan(
    7,
    (
        Chunk(1, (5, -1, -2), (0, 1, 1), 0, (3, 4), "digest", None),
        Chunk(2, (6,), (9,), 9, (0,), "", SPEC),
    ),
)


@pytest.mark.parametrize("command", [PLAN, DropPicture("digest"), Beat(), Stop()])
def test_a_command_comes_out_as_it_went_in(command: Command) -> None:
    assert decode(encode(command)) == command


def test_a_picture_comes_out_with_its_values() -> None:
    rows = TensorBytes("float32", (1, 2), b"12345678")
    command = decode(encode(AddPicture("digest", rows)))
    assert isinstance(command, AddPicture)
    assert (command.digest, command.rows.shape, bytes(command.rows.data)) == (
        "digest",
        (1, 2),
        b"12345678",
    )
