"""What is said where torch_npu cannot be used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glm4v.device import DeviceOptions, open_device
from glm4v.device.npu import package
from glm4v.errors import ConfigurationError


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "is_installed", lambda: False)
    package.load_torch_npu.cache_clear()  # where the tests run beside a real one
    with pytest.raises(ConfigurationError, match="install glm4v-serve with the extra npu"):
        open_device(DeviceOptions("npu"))


@pytest.mark.parametrize("failure", ["ImportError('libhccl.so: cannot open')", "OSError('no')"])
def test_a_package_without_cann_is_one_line_and_prints_nothing(
    failure: str, tmp_path: Path
) -> None:
    (tmp_path / "torch_npu.py").write_text(f"print('a greeting')\nraise {failure}\n")
    program = "from glm4v.device import *; open_device(DeviceOptions('npu'))"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=buffered | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    assert "a greeting" in done.stderr
    assert "ConfigurationError: torch_npu cannot be imported: " in done.stderr
    assert "source Ascend's ascend-toolkit/set_env.sh" in done.stderr
