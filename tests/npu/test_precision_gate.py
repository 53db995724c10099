"""`glm4v precision gate` between the CPU and the pretend device, on the demo model."""

import asyncio
from pathlib import Path

import pytest

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import DEMO_MODEL, demo_examples
from glm4v.checkpoint.quantized_copy import write_quantized
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
from tests.npu.test_int8 import OPERATOR, QUANTIZATIONS
from tests.npu.test_planted_int8 import operator
from tests.planted_faults import LARGE, Fault

COUNT = 2  # images


def recorded(
    backend: str, along: Recording | None = None, *, model: Path = DEMO_MODEL
) -> Recording:
    images = [each.image for each in demo_examples() if each.image is not None][:COUNT]
    questions = {image.name: Question(GUIDE_QUESTION, image.read_bytes()) for image in images}
    return asyncio.run(
        record(
            Checkpoint.open(model),
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


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with 8-bit weights, by groups or, on a 310P, per channel."""
    folder = tmp_path_factory.mktemp("int8") / "copy"
    return write_quantized(DEMO_MODEL, folder, QUANTIZATIONS[0], lambda *_: None).directory


@pytest.fixture(scope="module")
def reference_of_the_copy(npu: Device, copy: Path) -> Recording:
    return recorded("cpu,threads=1", model=copy)


@pytest.mark.timeout(300)
def test_8_bit_weights_pass(reference: Recording, emulated_threads: None) -> None:
    """Rounded while they are read: beside those of the checkpoint."""
    name = "int8" if QUANTIZATIONS[0].group else "int8-channel"
    candidate = recorded(f"npu,dtype=float16,weight_dtype={name}", reference)
    assert drift(reference, candidate) == []
    assert candidate.roundings == {"float16", name}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scale", [1.0, 1.01])
def test_a_file_of_8_bit_weights_is_compared_as_16_bits_are(
    reference_of_the_copy: Recording,
    copy: Path,
    scale: float,
    emulated_threads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both have the same integers and scales, so that scales off by 1 % fail."""
    operator(antiquant_scale=lambda each: each * scale)(monkeypatch)
    CALLS.clear()
    candidate = recorded("npu,dtype=float16", reference_of_the_copy, model=copy)
    found = drift(reference_of_the_copy, candidate)
    assert bool(found) == (scale != 1)
    assert candidate.roundings == {"float16"}
    assert OPERATOR in CALLS
