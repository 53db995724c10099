"""What is missing on machines with an NPU, and what mends it."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from glm4v.doctor import ascend
from glm4v.doctor.report import Report
from tests.unit.doctor.machines import A2, DUO, Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(autouse=True)
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which packages are installed; at first a pair that fits."""

    def packages(**versions: str) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(ascend, "version", version)

    packages(torch="2.13.0+cpu", torch_npu="2.13.0")
    return packages


def examine(machine: Machine, ranks: int = 1) -> Report:
    report = Report()
    assert ascend.examine(machine.system, report, ranks)
    return report


def fixes(report: Report) -> dict[str, str]:
    return {missing.what: missing.fix for missing in report.missing}


def test_chips_are_read_from_both_forms_of_the_table() -> None:
    assert ascend.parse_chips(A2) == [
        ("910B3", "OK", 3161, 65536),
        ("910B3", "OK", 3160, 65536),
    ]
    assert ascend.parse_chips(DUO) == [
        ("310P3", "OK", 1529, 44280),
        ("310P3", "Alarm", 1412, 43693),
    ]
    assert ascend.parse_chips("dcmi module initialize failed. ret is -8005") == []


def test_a_machine_without_an_npu_lacks_nothing(machine: Machine) -> None:
    report = Report()
    assert not ascend.examine(machine.system, report, 1)
    assert (report.facts, report.missing) == ({"ascend": ["no NPU"]}, [])


def test_nothing_is_missing_on_a_machine_that_is_set_up(machine: Machine) -> None:
    machine.ascend(A2, dies=2)
    machine.environment["ASCEND_HOME_PATH"] = str(machine.cann())
    report = examine(machine, ranks=2)
    assert report.missing == []
    assert report.facts["ascend"] == [
        "driver 24.1.rc3",
        "910B3, OK, 3161 of 65536 MB used",
        "910B3, OK, 3160 of 65536 MB used",
        f"CANN 9.1.0 in {machine.environment['ASCEND_HOME_PATH']}",
        "HCCL found",
        "torch_npu 2.13.0",
        "2 of 2 dies visible",
    ]


def test_a_card_without_driver_is_found_on_the_bus(machine: Machine) -> None:
    machine.file("sys/bus/pci/devices/0000:01:00.0/vendor", "0x19e5\n")
    machine.file("sys/bus/pci/devices/0000:01:00.0/class", "0x120000\n")
    what = "no device file /dev/davinci0: no driver, or a container without the device"
    assert "install the driver" in fixes(examine(machine))[what]


def test_a_network_card_of_the_same_vendor_is_no_npu(machine: Machine) -> None:
    machine.file("sys/bus/pci/devices/0000:01:00.0/vendor", "0x19e5\n")
    machine.file("sys/bus/pci/devices/0000:01:00.0/class", "0x020000\n")
    assert not ascend.examine(machine.system, Report(), 1)


def test_cann_that_is_installed_has_to_be_set_up(machine: Machine) -> None:
    machine.ascend(A2, dies=1)
    machine.cann()
    assert fixes(examine(machine)) == {
        "CANN is not set up in this shell (ASCEND_HOME_PATH is not set)": "source "
        "/usr/local/Ascend/ascend-toolkit/set_env.sh"
    }


def test_cann_that_is_not_there(machine: Machine) -> None:
    machine.ascend(A2, dies=1)
    assert list(fixes(examine(machine))) == ["CANN is not installed"]
    machine.environment["ASCEND_HOME_PATH"] = "/opt/away"
    assert list(fixes(examine(machine))) == ["ASCEND_HOME_PATH=/opt/away does not exist"]


def test_a_cann_without_hccl(machine: Machine) -> None:
    machine.ascend(A2, dies=1)
    home = machine.cann()
    (home / "lib64" / "libhccl.so").unlink()
    machine.environment["ASCEND_HOME_PATH"] = str(home)
    assert list(fixes(examine(machine))) == [f"no libhccl.so in {home}"]


def test_a_310p_needs_atb_and_its_health_is_told(machine: Machine) -> None:
    machine.ascend(DUO, dies=2)
    machine.environment["ASCEND_HOME_PATH"] = str(machine.cann())
    assert fixes(examine(machine)) == {
        "an NPU reports Alarm": "npu-smi info -t health -i 0",
        "the ATB operators of NNAL, which attention on a 310P needs, are not set up": "source "
        "/usr/local/Ascend/nnal/atb/set_env.sh",
    }
    machine.environment["ATB_HOME_PATH"] = "/usr/local/Ascend/nnal/atb/latest"
    assert list(fixes(examine(machine))) == ["an NPU reports Alarm"]


@pytest.mark.parametrize(
    ("versions", "what", "fix"),
    [
        (
            {"torch": "2.13.0+cpu"},
            "torch_npu is not installed",
            "pip install 'glm4v-serve[worker,npu]'",
        ),
        (
            {"torch": "2.12.1", "torch_npu": "2.13.0"},
            "torch_npu 2.13.0 does not fit torch 2.12.1",
            "pip install 'torch_npu==2.12.*'",
        ),
    ],
)
def test_torch_npu_has_to_fit(
    machine: Machine, install: Callable[..., None], versions: dict[str, str], what: str, fix: str
) -> None:
    machine.ascend(A2, dies=1)
    machine.environment["ASCEND_HOME_PATH"] = str(machine.cann())
    install(**versions)
    assert fixes(examine(machine)) == {what: fix}


def test_a_group_needs_as_many_visible_dies(machine: Machine) -> None:
    machine.ascend(A2, dies=2)
    machine.environment |= {
        "ASCEND_HOME_PATH": str(machine.cann()),
        "ASCEND_RT_VISIBLE_DEVICES": "1",
    }
    report = examine(machine, ranks=2)
    (missing,) = report.missing
    assert missing.what == "GLM4V_TENSOR_PARALLEL=2, but 1 dies are visible"
    assert missing.processes == ("language worker",)
    assert report.facts["ascend"][-1] == "1 of 2 dies visible"
