"""Devices that fail while the system answers.

The process ends with one line and its exit code, its leases lapse, another worker takes over, and
the answer is that of an undisturbed one.
"""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from glm4v.checkpoint.demo import DEMO_MODEL, demo_examples
from glm4v.errors import DeviceFailed, Overloaded, Unavailable
from lm_worker.model.runner import NO_MEMORY
from tests.e2e.asking import again, ask, assert_unharmed
from tests.e2e.reading import Reader, Reading
from tests.npu.processes import NpuFleet

pytestmark = [
    pytest.mark.chip("Ascend910B"),  # nothing here depends on the chip
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
]
TOKENS = 60
OTHER = "lm_worker-1b"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NpuFleet]:
    """Processes that serve the demo model."""
    async with NpuFleet(DEMO_MODEL, tmp_path_factory.mktemp("faults"), lease_s=8) as fleet:
        yield fleet


def errors(log: str) -> list[str]:
    """The last lines of processes, one of each that failed."""
    assert "Traceback" not in log, log[-3000:]
    return re.findall(r"^error: .*$", log, re.MULTILINE)


@pytest.mark.parametrize(
    ("worker", "fault", "said", "code"),
    [
        ("lm_worker-1a", "lost", ["npu:0 failed: .*507899"], DeviceFailed.exit_code),
        ("lm_worker-1c", "memory", [NO_MEMORY], Overloaded.exit_code),
        (
            "lm_worker-2a",
            "lost@1",  # rank 1 says why, and rank 0 misses it, as a process or in a call
            ["npu:1 failed: .*507899", "rank 1 exited with code 5|a rank died or hangs"],
            Unavailable.exit_code,
        ),
        ("lm_worker-2a", "timeout", ["npu:. failed: .*507048"], DeviceFailed.exit_code),
    ],
)
async def test_another_language_worker_goes_on(
    worker: str, fault: str, said: list[str], code: int, fleet: NpuFleet
) -> None:
    await fleet.only("gateway", OTHER)
    question = ask("What do you see?", max_tokens=TOKENS)
    async with Reader(fleet.targets) as reader:
        undisturbed = await reader.read(question)
        await fleet.only("gateway", worker)
        logged = len(fleet.log(worker))
        reading = Reading(again(question))
        async for _ in reader.events(reading):
            if len(reading.token_ids) >= 5 and worker in fleet.running:
                fleet.break_device(worker, fault)
                await fleet.start(OTHER, wait=False)
                assert await asyncio.wait_for(fleet.ended(worker), 60) == code
        await assert_unharmed(fleet, reading, undisturbed)
    fleet.mend_device(worker)
    lines = errors(fleet.log(worker)[logged:])
    for text in said:
        assert any(re.search(text, line) for line in lines), lines


async def test_another_vision_worker_encodes_the_image(fleet: NpuFleet) -> None:
    await fleet.only("gateway", "vision_worker", OTHER)
    example = next(each for each in demo_examples() if each.image is not None)
    assert example.image is not None
    logged = len(fleet.log("vision_worker"))
    fleet.break_device("vision_worker", "lost")
    question = ask(example.turns[0][0], example.image.read_bytes())
    async with Reader(fleet.targets) as reader:
        asked = asyncio.create_task(reader.read(question))
        assert await asyncio.wait_for(fleet.ended("vision_worker"), 60) == DeviceFailed.exit_code
        fleet.mend_device("vision_worker")
        await fleet.start("vision_worker", wait=False)
        reading = await asyncio.wait_for(asked, 60)
    assert reading.terminal == ["finished"]
    assert reading.text.startswith(example.turns[0][1])
    (line,) = errors(fleet.log("vision_worker")[logged:])
    assert re.search("npu:0 failed: .*507899", line)


async def test_an_image_without_memory_is_refused_and_the_next_is_encoded(fleet: NpuFleet) -> None:
    await fleet.only("gateway", "vision_worker-c", OTHER)
    example = next(each for each in demo_examples() if each.image is not None)
    assert example.image is not None
    question, image = example.turns[0][0], example.image.read_bytes()
    fleet.break_device("vision_worker-c", "memory")
    async with Reader(fleet.targets) as reader:
        refused = await reader.read(ask(question, image + b"1"))
        fleet.mend_device("vision_worker-c")
        answered = await reader.read(ask(question, image + b"2"))
    assert refused.terminal == ["RESOURCE_EXHAUSTED"]
    assert "not enough memory left for this image" in refused.details
    assert answered.terminal == ["finished"]
    assert answered.text.startswith(example.turns[0][1])
