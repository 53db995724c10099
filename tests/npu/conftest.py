"""The pretend device in this process; without it (see tools/test-npu.sh) nothing here is collected.

One process is one chip: PRETEND_NPU names its SoC. At the end a table says what ran.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch

from glm4v.device import Device, DeviceOptions, open_device
from glm4v.device.device_thread import DeviceThread

if TYPE_CHECKING:
    from tests.npu.pretend.emulation import Emulation

SOC = os.environ.get("PRETEND_NPU", "")
if not SOC:
    collect_ignore_glob = ["test_*.py"]

DTYPES = ["float16"] if SOC.startswith("Ascend310P") else ["float16", "bfloat16"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small operators are faster so."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def npu() -> Device:
    """The device in float16, which both chips have."""
    return open_device(DeviceOptions("npu", "float16"))


@pytest.fixture
def emulation(npu: Device) -> "Iterator[Emulation]":
    """The arithmetic of the pretend device in this thread."""
    from tests.npu.pretend.emulation import Emulation

    with Emulation() as mode:
        yield mode


@pytest.fixture
def emulated_threads(npu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the device threads of engines and encoders."""
    from tests.npu.pretend.emulation import Emulation

    run = DeviceThread._run

    def emulated(thread: DeviceThread) -> None:
        with Emulation():
            run(thread)

    monkeypatch.setattr(DeviceThread, "_run", emulated)


def pytest_configure(config: pytest.Config) -> None:
    """The marker of tests that one kind of chip has alone."""
    config.addinivalue_line("markers", "chip(soc): for chips whose SoC begins so")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave those of other chips to their own process."""
    others = [
        item
        for item in items
        if (chip := item.get_closest_marker("chip")) and not SOC.startswith(chip.args[0])
    ]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What of torch_npu was called, and how often."""
    if not SOC:
        return
    from tests.npu.pretend.emulation import CALLS
    from tests.npu.test_operators import CHECKED

    if not CALLS:  # other processes ran them
        return
    terminalreporter.section(f"{SOC}: operators of torch_npu")
    terminalreporter.write_line(f"{'operator':58} {'L1 Meta':>8} {'L2 emulated':>12}")
    for name in sorted(CHECKED | {name for name in CALLS if name[:4] in ("npu:", "atb:")}):
        meta = "yes" if name in CHECKED else "-"
        terminalreporter.write_line(f"{name:58} {meta:>8} {CALLS[name]:12}")
    torch_calls = sum(count for name, count in CALLS.items() if name.startswith("aten"))
    names = sum(name.startswith("aten") for name in CALLS)
    terminalreporter.write_line(f"{names} operators of torch, all with NPU kernels, {torch_calls}")
