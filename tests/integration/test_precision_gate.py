"""The gate on the demo model: rounding passes, and each planted fault fails."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import DEMO_MODEL, demo_examples
from offline.batch import Question
from offline.image_folder import GUIDE_QUESTION
from precision.agreement import agreement
from precision.backend import Backend
from precision.command import command
from precision.recorder import record
from precision.recording import Recording
from precision.tolerance import TOLERANCES, excesses, tolerance_of
from tests.planted_faults import LARGE, SMALL, Fault

FEW = 2  # images, where float16 is slow on a CPU


def questions(count: int | None = None) -> dict[str, Question]:
    images = [each.image for each in demo_examples() if each.image is not None][:count]
    return {image.name: Question(GUIDE_QUESTION, image.read_bytes()) for image in images}


def recorded(backend: str, count: int | None = None, along: Recording | None = None) -> Recording:
    checkpoint = Checkpoint.open(DEMO_MODEL)
    side = Backend.parse(f"{backend},threads=1")
    asked = questions(count)
    return asyncio.run(record(checkpoint, side, asked, max_tokens=32, batch=3, along=along))


def drift(reference: Recording, backend: str, count: int | None = None) -> list[str]:
    """What exceeds the tolerance of this backend."""
    candidate = recorded(backend, count, reference)
    tolerance = tolerance_of(reference.roundings | candidate.roundings)
    answers = {name: reference.answers[name] for name in candidate.answers}
    return excesses(
        agreement(Recording("cpu", "", reference.roundings, answers), candidate), tolerance
    )


@pytest.fixture(scope="module")
def reference() -> Recording:
    return recorded("cpu")


def test_the_reference_is_what_the_demo_model_says(reference: Recording) -> None:
    assert reference.answers["dog.png"].text == "狗。"
    assert reference.answers["rocket.png"].text == "火箭。"
    assert reference.roundings == {"float32"}


@pytest.mark.parametrize(
    ("backend", "count"),
    [
        ("cpu,dtype=float32", None),
        ("cpu,tensor_parallel=2", None),
        ("cpu,dtype=bfloat16", None),
        ("cpu,dtype=float16", FEW),
        pytest.param("cpu,weight_dtype=int8", FEW, marks=pytest.mark.needs_compiler),
    ],
)
def test_rounding_passes(reference: Recording, backend: str, count: int | None) -> None:
    assert drift(reference, backend, count) == []


@pytest.mark.parametrize("fault", [*SMALL, *LARGE], ids=lambda fault: fault.__name__)
def test_every_planted_fault_fails(reference: Recording, fault: Fault) -> None:
    with fault():
        found = drift(reference, "cpu")
    assert any(line.startswith("prefill: the mean") for line in found)
    assert any(line.startswith("decode: the mean") for line in found)


@pytest.mark.parametrize("fault", LARGE, ids=lambda fault: fault.__name__)
def test_a_large_fault_fails_behind_the_rounding_of_bfloat16(
    reference: Recording, fault: Fault
) -> None:
    with fault():
        assert drift(reference, "cpu,dtype=bfloat16")


def test_the_command_says_so_with_figures_and_its_exit_code() -> None:
    dog = str(DEMO_MODEL / "examples/dog.png")
    words = ["gate", dog, "--candidate", "cpu,dtype=bfloat16,threads=1", "--max-tokens", "8"]
    passed = CliRunner().invoke(command, [*words, "--json"])
    assert passed.exit_code == 0, passed.output
    found = json.loads(passed.stdout)
    assert found["passed"]
    assert (found["images"], found["equal_answers"], found["diverged"]) == (1, 1, [])
    assert found["steps"] == found["same_best_token"] == 4
    assert found["tolerance"]["mean"] == TOLERANCES["bfloat16"].mean
    assert 0 < found["prefill"]["mean"] < found["prefill"]["largest"]
    failed = CliRunner().invoke(command, [*words, "--tolerance-mean", "1e-6"])
    assert failed.exit_code == 1
    assert "the mean difference of log-probabilities is" in failed.stdout
    assert "cpu,dtype=bfloat16,threads=1 drifts from cpu" in failed.stdout
