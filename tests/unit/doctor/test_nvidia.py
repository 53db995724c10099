"""What is missing on machines with an NVIDIA GPU, and what mends it."""

from pathlib import Path

import pytest

from glm4v.doctor import nvidia
from glm4v.doctor.report import Report
from tests.unit.doctor.machines import GPUS, Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_machine_without_a_gpu_lacks_nothing(machine: Machine) -> None:
    report = Report()
    assert not nvidia.examine(machine.system, report, 1)
    assert (report.facts, report.missing) == ({"cuda": ["no NVIDIA GPU"]}, [])


def test_the_driver_lists_the_gpus(machine: Machine) -> None:
    machine.program("nvidia-smi", GPUS)
    report = Report()
    assert nvidia.examine(machine.system, report, 1)
    assert report.missing == []
    assert report.facts["cuda"] == ["NVIDIA A10, driver 570.86.15, 4 MiB of 23028 MiB used"]


@pytest.mark.parametrize("place", ["bus", "broken driver", "setting"])
def test_a_gpu_that_the_driver_does_not_list(machine: Machine, place: str) -> None:
    match place:
        case "bus":
            machine.file("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
            machine.file("sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")
        case "broken driver":
            machine.file("dev/nvidia0")
            machine.program("nvidia-smi", "has failed because it couldn't communicate", 9)
        case _:
            machine.environment["GLM4V_DEVICE"] = "cuda"
    report = Report()
    assert nvidia.examine(machine.system, report, 1)
    (missing,) = report.missing
    assert missing.what.startswith("nvidia-smi lists no GPU")


def test_a_group_needs_as_many_visible_gpus(machine: Machine) -> None:
    machine.program("nvidia-smi", 2 * GPUS)
    machine.environment["CUDA_VISIBLE_DEVICES"] = "0"
    report = Report()
    nvidia.examine(machine.system, report, 2)
    (missing,) = report.missing
    assert missing.what == "GLM4V_TENSOR_PARALLEL=2, but 1 GPUs are visible"


def test_a_cpu_build_of_torch_beside_a_gpu() -> None:
    report = Report()
    nvidia.check_build(report, {"torch": "2.13.0+cu130", "torch_cuda": "13.0"})
    nvidia.check_build(report, {"error": "no answer within 60 s"})
    assert report.missing == []
    nvidia.check_build(report, {"torch": "2.13.0+cpu", "torch_cuda": ""})
    (missing,) = report.missing
    assert missing.what == "torch 2.13.0+cpu is built without CUDA"
    assert missing.fix == "pip install --force-reinstall torch==2.13.0"
