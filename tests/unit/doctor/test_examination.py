"""Which processes can run on which device, and how broken devices end."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.doctor import children
from glm4v.doctor.bounded import run_bounded
from glm4v.doctor.children import import_error, probe_device
from glm4v.doctor.examination import examine
from glm4v.doctor.report import Report
from tests.unit.doctor.machines import A2, GPUS, Machine

CPU = {"torch": "2.13.0", "torch_cuda": "13.0", "name": "cpu", "description": "float32"}
GPU = {"torch": "2.13.0", "torch_cuda": "13.0", "name": "cuda:0", "description": "bfloat16"}
BROKEN = {"torch": "2.13.0", "torch_cuda": "13.0", "error": "CUDA error: no kernel image"}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.program("redis-server", "Redis server v=8.2.3 sha=00000000:0")
    return machine


def examined(
    machine: Machine, imports: dict[str, tuple[str, str]] | None = None, **probes: dict[str, str]
) -> Report:
    return examine(
        machine.system, find_import_error=(imports or {}).get, probe=lambda name: probes[name]
    )


def test_a_cpu_serves(machine: Machine) -> None:
    report = examined(machine, auto=CPU, cpu=CPU)
    assert report.missing == []
    assert (report.default_device, report.can_serve) == ("cpu", True)
    assert report.facts["torch"] == ["2.13.0"]


def test_the_best_device_serves(machine: Machine) -> None:
    machine.program("nvidia-smi", GPUS)
    report = examined(machine, auto=GPU, cpu=CPU, cuda=GPU)
    assert (report.default_device, report.can_serve) == ("cuda:0", True)
    assert report.devices == {"cpu": True, "cuda": True}


def test_a_device_that_does_not_open_is_missing_for_workers_only(machine: Machine) -> None:
    machine.program("nvidia-smi", GPUS)
    machine.environment["GLM4V_DEVICE"] = "cuda"
    report = examined(machine, cpu=CPU, cuda=BROKEN)
    assert (report.default_device, report.can_serve) == ("", False)
    assert report.can_run("gateway", "cuda")
    assert report.can_run("language worker", "cpu")
    assert not report.can_run("language worker", "cuda")
    (missing,) = report.missing
    assert missing.what == "it does not open: CUDA error: no kernel image"


def test_what_is_missing_on_another_device_does_not_matter(machine: Machine) -> None:
    machine.ascend(A2, dies=1)
    report = examined(machine, auto=CPU, cpu=CPU, npu={"error": "no torch_npu"})
    assert report.can_serve
    assert {missing.device for missing in report.missing} == {"npu"}


def test_workers_without_torch_cannot_serve(machine: Machine) -> None:
    wrong = ("torch is not installed", "pip install 'glm4v-serve[worker]'")
    imports = {"vision_worker.__main__": wrong, "lm_worker.__main__": wrong}
    report = examined(machine, imports, auto=BROKEN, cpu=BROKEN)
    assert not report.can_serve
    assert report.missing[0].processes == ("vision worker", "language worker")
    assert report.can_run("gateway", "cpu")


def test_weights_that_do_not_fit_are_missing_on_that_device(machine: Machine) -> None:
    machine.program("nvidia-smi", GPUS)
    machine.environment["GLM4V_MODEL"] = str(DEMO_MODEL)
    full = {**GPU, "free_bytes": "1000000", "weight_bytes": "2", "language_bytes": "9000000"}
    roomy = {**CPU, "free_bytes": "8000000000", "weight_bytes": "4", "language_bytes": "18000000"}
    report = examined(machine, auto=full, cpu=roomy, cuda=full)
    assert report.can_run("language worker", "cpu")
    assert not report.can_serve
    vision, language = report.missing
    assert (vision.processes, language.processes) == (("vision worker",), ("language worker",))
    assert vision.what.endswith(" GB of weights, 0.0 GB free")
    assert language.fix.endswith("or raise GLM4V_TENSOR_PARALLEL")
    assert report.facts["model"][0].startswith(str(DEMO_MODEL))


def test_a_checkpoint_that_cannot_be_served(machine: Machine) -> None:
    machine.environment["GLM4V_MODEL"] = str(machine.root)
    report = examined(machine, auto=CPU, cpu=CPU)
    (missing,) = report.missing
    assert "config.json: no such file" in missing.what
    assert not report.can_run("gateway", "cpu")


def test_the_imports_of_a_process_are_tried_in_another() -> None:
    assert import_error("json") is None
    what, fix = import_error("glm4v_no_such_module") or ("", "")
    assert "No module named 'glm4v_no_such_module'" in what
    assert "glm4v_no_such_module" in fix


def test_a_device_whose_driver_hangs_or_crashes_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def instead(code: str) -> None:
        real = children.run_python
        monkeypatch.setattr(
            children, "run_python", lambda *_, timeout_s: real("-c", code, timeout_s=timeout_s)
        )

    with monkeypatch.context():
        instead("import time; time.sleep(60)")
        assert probe_device("cuda", timeout_s=0.5) == {
            "error": "no answer within 0.5 s; its driver may hang"
        }
    monkeypatch.undo()
    instead("import os; os.abort()")
    assert probe_device("cuda") == {"error": "the process was ended by signal 6"}
    monkeypatch.undo()
    instead("import sys; sys.exit('Traceback …\\nImportError: libcuda.so')")
    assert probe_device("cuda") == {"error": "ImportError: libcuda.so"}


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_program_that_cannot_be_killed_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits inside a driver."""
    monkeypatch.setattr(subprocess.Popen, "kill", lambda _: None)
    began = time.monotonic()
    assert run_bounded(["/bin/sleep", "8"], 0.2) is None
    assert time.monotonic() - began < 6


def test_the_command_finds_what_an_npu_lacks_and_serves_on_the_cpu(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.program("npu-smi", A2)
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("GLM4V_")},
        "PATH": os.pathsep.join([machine.environment["PATH"], os.environ["PATH"]]),
        "ASCEND_HOME_PATH": str(machine.cann()),
    }
    done = subprocess.run(
        [sys.executable, "-m", "glm4v.cli", "doctor", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["can_serve"]
    assert report["processes"]["vision worker"] == {"cpu": True, "npu": False}
    assert any("driver 24.1.rc3" in fact for fact in report["facts"]["ascend"])
    assert "no device file /dev/davinci0" in report["missing"][0]["what"]
    assert report["facts"]["cpu"][0].endswith("usable")
