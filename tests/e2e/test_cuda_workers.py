"""Whole workers with the code for GPUs, the CPU in the GPU's place: graphs and NCCL do not run."""

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from glm4v.errors import DeviceFailed
from tests.e2e.asking import again, ask, assert_unharmed, draw
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader, Reading

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]
GPU = ("cuda_lm_worker", "cuda_vision_worker")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that makes the GPU fail."""
    return tmp_path_factory.mktemp("gpu") / "fault"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gpus(checkpoint_dir: Callable[[str], Path], fault: Path) -> AsyncIterator[Fleet]:
    """The smallest checkpoint, served by workers of both kinds."""
    environment = {"CUDA_FAULT": str(fault)}
    async with Fleet(checkpoint_dir("micro-glm4v"), environment=environment) as fleet:
        yield fleet


async def test_answers_about_images_are_those_of_the_cpu(gpus: Fleet) -> None:
    questions = [ask(f"what {n}", draw(f"gpu {n}")) for n in range(3)] + [ask("who", seed=5)]
    await gpus.only("gateway", "vision_worker", "lm_worker")
    async with Reader(gpus.targets) as reader:
        of_the_cpu = [await reader.read(question) for question in questions]
        await gpus.only("gateway", *GPU)
        # The images again, as files of their own, or their embeddings would be found in Redis.
        for question, expected in zip(questions, of_the_cpu, strict=True):
            again_asked = again(question)
            for part in again_asked.messages[0].parts:
                if part.image.data:
                    part.image.data += b"."
            await assert_unharmed(gpus, await reader.read(again_asked), expected)
    for worker in GPU:
        assert "device cpu: float32, PyTorch with CUDA graphs" in gpus.log(worker)


async def test_a_gpu_that_fails_ends_the_process_and_another_goes_on(
    gpus: Fleet, fault: Path
) -> None:
    await gpus.only("gateway", GPU[0])
    question = ask("why", max_tokens=200)
    async with Reader(gpus.targets) as reader:
        undisturbed = await reader.read(question)
        reading = Reading(again(question))
        async for _ in reader.events(reading):
            if len(reading.token_ids) >= 5 and GPU[0] in gpus.running:
                fault.touch()  # noqa: ASYNC240
                assert await gpus.ended(GPU[0]) == DeviceFailed.exit_code
                await gpus.start("lm_worker", wait=False)
        await assert_unharmed(gpus, reading, undisturbed)
    assert re.findall("^error: .*$", gpus.log(GPU[0]), re.MULTILINE) == [
        "error: cpu failed: CUDA error: an illegal memory access was encountered"
    ]
    assert "Traceback" not in gpus.log(GPU[0])
