"""8-bit weights through all processes of the system, its workers on pretend NPUs."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.checkpoint.quantized_copy import write_quantized
from glm4v.device import DeviceOptions, open_device
from tests.npu.conftest import SOC
from tests.npu.processes import NpuFleet
from tests.npu.required import LANGUAGE, REPLAYED, VISION
from tests.npu.test_engine import answers
from tests.npu.test_int8 import OPERATOR, PRODUCTS_IN_16_BITS, QUANTIZATIONS
from tests.npu.test_system import ask_all

COUNT = 4  # requests, about two images
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The demo model as `glm4v quantize` writes it: by groups of 64, on a 310P per channel."""
    folder = tmp_path_factory.mktemp("int8")
    return write_quantized(DEMO_MODEL, folder / "copy", QUANTIZATIONS[0], lambda *_: None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(
    copy: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[NpuFleet]:
    """Processes that serve it."""
    async with NpuFleet(copy.directory, tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def of_the_cpu(copy: Checkpoint) -> list[list[int]]:
    """The tokens of the CPU in float32 from the same file."""
    return await answers(open_device(DeviceOptions("cpu", "float32")), copy, COUNT)


@pytest.mark.parametrize("ranks", [1, 2])
async def test_requests_with_images_are_answered_as_by_the_cpu(
    ranks: int, fleet: NpuFleet, of_the_cpu: list[list[int]]
) -> None:
    await fleet.only("gateway", "vision_worker", f"lm_worker-{ranks}")
    assert await ask_all(fleet, COUNT) == of_the_cpu
    every = fleet.operators(f"lm_worker-{ranks}")
    assert len(every) == ranks
    expected = LANGUAGE[SOC] - {"npu::npu_format_cast"} | REPLAYED[SOC] | {OPERATOR}
    for operators in every:
        assert operators >= expected | ({"c10d::allreduce_"} if ranks > 1 else set())
        assert not operators & PRODUCTS_IN_16_BITS
    (operators,) = fleet.operators("vision_worker")
    assert operators >= VISION[SOC] | {"aten::addmm"}
    assert OPERATOR not in operators
