"""All processes of the system, its workers on pretend devices."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from glm4v.checkpoint.demo import DEMO_MODEL, demo_examples
from glm4v.client import Client
from glm4v.client.messages import user_message
from glm4v.local.cluster import ClusterSettings, LocalCluster
from tests.integration.test_demo_model import answers_are_those_of_the_examples, ask
from tests.processes import until

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(__file__).parent / "site"
TOKENS = 60


@pytest.fixture(autouse=True)
def emulated_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process that Python starts imports `sitecustomize`."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SITE), str(ROOT)]))


@dataclass
class Log:
    """Lines of the processes."""

    lines: list[tuple[str, str]] = field(default_factory=list)

    def show(self, name: str, line: str) -> None:
        """Keep a line of the process `name`."""
        self.lines.append((name, line))

    def of(self, name: str, text: str) -> list[str]:
        """The lines of that process that contain the text."""
        return [line for process, line in self.lines if process == name and text in line]


@asynccontextmanager
async def system(log: Log, **environment: str) -> AsyncIterator[LocalCluster]:
    """A gateway and two workers on pretend NPUs."""
    workers = {"GLM4V_DEVICE": "npu", "GLM4V_LEASE_S": "4"}
    settings = ClusterSettings(DEMO_MODEL, environment=workers | environment)
    async with LocalCluster(settings, log.show) as cluster:
        yield cluster


async def test_the_demo_models_answers() -> None:
    """Conversations with images, all at once."""
    log = Log()
    async with system(log) as cluster:
        with Client(cluster.target) as client:
            await asyncio.to_thread(answers_are_those_of_the_examples, client)
    for worker in ("vision_worker", "lm_worker"):
        assert log.of(worker, "device npu:0: Ascend"), log.lines


@pytest.mark.chip("Ascend910B")  # nothing here depends on the chip
async def test_another_worker_goes_on_when_a_device_is_lost(tmp_path: Path) -> None:
    lost, log = tmp_path / "lost", Log()
    async with system(log, PRETEND_NPU_LOST=str(lost)) as cluster:
        with Client(cluster.target) as client:
            undisturbed = await asyncio.to_thread(answer, client)
            asked = asyncio.create_task(asyncio.to_thread(answer, client, lost))
            await until(lambda: bool(log.of("lm_worker", "npu:0 failed")), 60)
            lost.unlink()
            assert await asked == undisturbed
    (line,) = log.of("lm_worker", "error: npu:0 failed")
    assert "507899" in line
    assert not log.of("lm_worker", "Traceback")


@pytest.mark.chip("Ascend910B")
async def test_another_worker_encodes_the_image_when_a_device_is_lost(tmp_path: Path) -> None:
    lost, log = tmp_path / "lost", Log()
    example = next(each for each in demo_examples() if each.image is not None)
    assert example.image is not None
    question, right = example.turns[0]
    async with system(log, PRETEND_NPU_LOST=str(lost)) as cluster:
        lost.touch()
        with Client(cluster.target) as client:
            asked = asyncio.create_task(
                asyncio.to_thread(ask, client, example.image.read_bytes(), [question])
            )
            await until(lambda: bool(log.of("vision_worker", "npu:0 failed")), 60)
            lost.unlink()
            assert await asked == [right]
    assert len(log.of("vision_worker", "error: npu:0 failed")) == 1
    assert not log.of("vision_worker", "Traceback")


def answer(client: Client, lost: Path | None = None) -> str:
    """An answer of 60 tokens; the device is lost after some of them."""
    texts = []
    messages = [user_message("What do you see?")]
    with client.generate(messages, temperature=0, max_tokens=TOKENS, ignore_eos=True) as generation:
        for text in generation.texts():
            texts.append(text)
            if lost is not None and len(texts) == 5:
                lost.touch()
    return "".join(texts)
