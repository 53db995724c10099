"""`glm4v precision gate` between the CPU and the pretend device, on the demo model."""

import asyncio

import pytest

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import DEMO_MODEL, demo_examples
from glm4v.device import Device
from offline.batch import Question
from offline.image_folder import GUIDE_QUESTION
from precision.agreement import agreement
from precision.backend import Backend
from precision.recorder import record
from precision.recording import Recording
from precision.tolerance import excesses, tolerance_of
from tests.npu.conftest import DTYPES, SOC
from tests.npu.pretend.emulation import CALLS
from tests.npu.required import LANGUAGE, VISION
from tests.planted_faults import LARGE, Fault

COUNT = 2  # images


def recorded(backend: str, along: Recording | None = None) -> Recording:
    images = [each.image for each in demo_examples() if each.image is not None][:COUNT]
    questions = {image.name: Question(GUIDE_QUESTION, image.read_bytes()) for image in images}
    return asyncio.run(
        record(
            Checkpoint.open(DEMO_MODEL),
            Backend.parse(backend),
            questions,
            max_tokens=16,
            batch=2,
            along=along,
        )
    )


def drift(reference: Recording, candidate: Recording) -> list[str]:
    tolerance = tolerance_of(reference.roundings | candidate.roundings)
    return excesses(agreement(reference, candidate), tolerance)


@pytest.fixture(scope="module")
def reference(npu: Device) -> Recording:
    return recorded("cpu,threads=1")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_rounding_of_an_npu_passes(
    reference: Recording, dtype: str, emulated_threads: None
) -> None:
    CALLS.clear()
    candidate = recorded(f"npu,dtype={dtype}", reference)
    assert drift(reference, candidate) == []
    assert candidate.roundings == {dtype}
    assert set(CALLS) >= LANGUAGE[SOC] | VISION[SOC]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", LARGE, ids=lambda fault: fault.__name__)
def test_a_fault_of_an_npu_fails(
    reference: Recording, fault: Fault, emulated_threads: None
) -> None:
    with fault():
        candidate = recorded("npu,dtype=float16", reference)
    assert drift(reference, candidate)
