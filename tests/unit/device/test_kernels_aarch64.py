"""The kernels on a processor that this machine is not: aarch64, as servers of NPUs often have."""

import subprocess
from pathlib import Path

import pytest

from glm4v.device.cpu.kernels.compiler import SOURCE
from glm4v.device.cpu.kernels.variants import VARIANTS

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
CHECK = Path(__file__).with_name("kernels_aarch64.cpp")
[VARIANT] = [variant for variant in VARIANTS if variant.machine == "aarch64"]
FLAGS = ("-std=c++17", "-O3", VARIANT.flag, "-ffp-contract=fast", "-static", "-pthread")


@pytest.mark.needs_emulator
@pytest.mark.timeout(300)
def test_aarch64(tmp_path: Path) -> None:
    sources = map(str, sorted(SOURCE.glob("*.cpp")))
    check = str(tmp_path / "check")
    command = [COMPILER, *FLAGS, "-I", str(SOURCE), str(CHECK), *sources, "-o", check]
    subprocess.run(command, check=True, timeout=200)
    run = subprocess.run([EMULATOR, check], capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stdout
    assert run.stdout.startswith("lanes 4, ")
    assert run.stdout.endswith(", 0 wrong\n")
