"""All processes of the system, its workers on pretend NPUs, tensor-parallel ones among them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.device import DeviceOptions, open_device
from glm4v.v1 import inference_pb2 as api
from tests.e2e.asking import again
from tests.e2e.reading import Reader
from tests.integration.golden import conversation
from tests.npu.conftest import SOC
from tests.npu.processes import NpuFleet
from tests.npu.required import LANGUAGE, REPLAYED, VISION
from tests.npu.test_engine import COUNT, answers, requests
from tests.npu.test_language import TOLERANCE
from tests.parity.golden_plans import cases, open_golden, read_case

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

RANKS = [1, 2, 4]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NpuFleet]:
    """Processes that serve the demo model."""
    async with NpuFleet(DEMO_MODEL, tmp_path_factory.mktemp("demo")) as fleet:
        yield fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def micro(
    checkpoint_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[NpuFleet]:
    """Processes that serve the checkpoint of the golden cases."""
    async with NpuFleet(checkpoint_dir("micro-glm4v"), tmp_path_factory.mktemp("micro")) as fleet:
        yield fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def of_the_cpu() -> list[list[int]]:
    """The tokens of the CPU in float32 for the 16 requests."""
    cpu = open_device(DeviceOptions("cpu", "float32"))
    return await answers(cpu, Checkpoint.open(DEMO_MODEL))


def assert_all_fused(fleet: NpuFleet, ranks: int) -> None:
    """Every rank, and the vision worker, ran through the chip's operators."""
    every = fleet.operators(f"lm_worker-{ranks}")
    assert len(every) == ranks
    sums = {"c10d::allreduce_"} if ranks > 1 else set()
    for operators in every:
        assert operators >= LANGUAGE[SOC] | REPLAYED[SOC] | sums
        assert "aten::scaled_dot_product_attention" not in operators
    (operators,) = fleet.operators("vision_worker")
    assert operators >= VISION[SOC]


@pytest.mark.parametrize("ranks", RANKS)
async def test_sixteen_requests_with_images_are_answered_as_by_the_cpu(
    ranks: int, demo: NpuFleet, of_the_cpu: list[list[int]]
) -> None:
    await demo.only("gateway", "vision_worker", f"lm_worker-{ranks}")
    assert await ask_all(demo) == of_the_cpu
    assert_all_fused(demo, ranks)


@pytest.mark.chip("Ascend910B")  # nothing here depends on the chip
async def test_two_groups_on_one_host_do_not_disturb_each_other(
    demo: NpuFleet, of_the_cpu: list[list[int]]
) -> None:
    """Before and after one of them ends."""
    groups = ["lm_worker-2", "lm_worker-2b"]
    for left in range(2):
        await demo.only("gateway", "vision_worker", *groups[left:])
        assert await ask_all(demo) == of_the_cpu


async def ask_all(fleet: NpuFleet, count: int = COUNT) -> list[list[int]]:
    """The tokens of so many answers, asked for at once."""
    async with Reader(fleet.targets) as reader:
        readings = await asyncio.gather(*(reader.read(again(each)) for each in requests(count)))
    assert {*(end for reading in readings for end in reading.terminal)} == {"finished"}
    return [reading.token_ids for reading in readings]


@pytest.mark.parametrize("ranks", RANKS)
async def test_golden_conversations_are_answered_as_by_the_original(
    ranks: int, micro: NpuFleet, checkpoint_dir: Callable[[str], Path]
) -> None:
    """Up to the first token that rounding may change: those behind it have another past."""
    await micro.only("gateway", "vision_worker", f"lm_worker-{ranks}")
    golden = open_golden("bundled")
    spec = Checkpoint.open(checkpoint_dir("micro-glm4v")).spec
    every = [read_case(golden, case, spec) for case in cases(golden)]
    asked = [
        again(
            api.GenerateRequest(
                messages=conversation(golden, case.name),
                sampling=api.SamplingParams(temperature=0),
                max_tokens=len(case.tokens),
                ignore_eos=True,
            )
        )
        for case in every
    ]
    async with Reader(micro.targets) as reader:
        readings = await asyncio.gather(*map(reader.read, asked))
    compared = 0
    for case, reading in zip(every, readings, strict=True):
        best = [case.last_logits.topk(2).values.tolist(), *case.top_logits[:-1, :2].tolist()]
        narrow = (at for at, (a, b) in enumerate(best) if a - b < 2 * TOLERANCE["float16"])
        count = next(narrow, len(best))
        assert reading.token_ids[:count] == list(case.tokens[:count]), case.name
        compared += count
    assert compared > 40
    assert_all_fused(micro, ranks)
