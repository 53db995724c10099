"""Folders that look like the machines that `glm4v doctor` examines."""

from pathlib import Path

from glm4v.doctor.system import System

# As `npu-smi info` of 24.1 and 25.2 prints it, the frame left out.
A2 = """\
| npu-smi 24.1.rc3                 Version: 24.1.rc3                                             |
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
| 0     910B3               | OK            | 95.6        45                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3161 / 65536         |
| 1     910B3               | OK            | 93.1        44                0    / 0             |
| 0                         | 0000:01:00.0  | 0           0    / 0          3160 / 65536         |
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
| 0       0                 | 4242          | python3                  | 101                     |
"""
DUO = """\
| npu-smi 25.2.0                                   Version: 25.2.0  |
| NPU     Name                  | Health          | Power(W)     Temp(C)          Hugepages(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)  |
| 2       310P3                 | OK              | NA           45                0     / 0  |
| 0       0                     | 0000:01:00.0    | 0            1529 / 44280  |
| 2       310P3                 | Alarm           | NA           43                0     / 0  |
| 1       1                     | 0000:01:00.0    | 0            1412 / 43693  |
"""
GPUS = "NVIDIA A10, 570.86.15, 23028 MiB, 4 MiB\n"


class Machine:
    """A machine below `root`; its programs are scripts that print a text."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {"PATH": str(root / "bin")}
        (root / "bin").mkdir()

    def program(self, name: str, output: str, exit_code: int = 0) -> None:
        """Install a program."""
        (self.root / f"{name}.txt").write_text(output)
        file = self.root / "bin" / name
        file.write_text(f"#!/bin/sh\n/bin/cat '{self.root}/{name}.txt'\nexit {exit_code}\n")
        file.chmod(0o755)

    def file(self, name: str, text: str = "") -> Path:
        """Create a file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def ascend(self, table: str, dies: int) -> None:
        """A driver, its device files and its tool."""
        self.program("npu-smi", table)
        self.file("usr/local/Ascend/driver/version.info", "Version=24.1.rc3\n")
        self.file("dev/davinci_manager")
        for die in range(dies):
            self.file(f"dev/davinci{die}")

    def cann(self) -> Path:
        """CANN, not set up; the folder that ASCEND_HOME_PATH names once it is."""
        home = "usr/local/Ascend/ascend-toolkit/latest"
        self.file(f"{home}/aarch64-linux/ascend_toolkit_install.info", "version=9.1.0\npath=/x\n")
        self.file(f"{home}/lib64/libhccl.so")
        return self.root / home

    @property
    def system(self) -> System:
        """What the examination reads."""
        return System(self.root, self.environment)
