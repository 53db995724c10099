"""The machine as the examination reads it."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from glm4v.doctor.bounded import run_bounded

_TOOL_S = 20.0  # for nvidia-smi or npu-smi; with a broken driver they hang


@dataclass(frozen=True, slots=True)
class System:
    """Files below `root`, environment variables, and programs on their PATH."""

    root: Path = Path("/")
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def path(self, name: str) -> Path:
        """A path such as "dev/davinci0"."""
        return self.root / name

    def device_files(self, prefix: str) -> list[Path]:
        """The files /dev/<prefix><number>, by number."""
        pattern = re.compile(rf"{re.escape(prefix)}(\d+)")
        folder = self.path("dev")
        found = folder.iterdir() if folder.is_dir() else iter(())
        numbered = {
            int(match[1]): file for file in found if (match := pattern.fullmatch(file.name))
        }
        return [numbered[number] for number in sorted(numbered)]

    def pci_devices(self, vendor: str, classes: tuple[str, ...]) -> int:
        """How many PCI devices a vendor has here; `classes` are prefixes of their class codes."""
        return sum(
            _word(folder / "vendor") == vendor and _word(folder / "class").startswith(classes)
            for folder in self.path("sys/bus/pci/devices").glob("*")
        )

    def run(self, program: str, *arguments: str) -> str | None:
        """The output of a program; None if it is not there, fails, or does not end."""
        found = shutil.which(program, path=self.environment.get("PATH", ""))
        if found is None:
            return None
        try:
            ended = run_bounded([found, *arguments], _TOOL_S)
        except OSError:
            return None
        return ended.output if ended is not None and ended.exit_code == 0 else None

    def version_in(self, *patterns: tuple[Path, str]) -> str:
        """The first `version=` line in the files of (folder, glob); empty if there is none."""
        for folder, pattern in patterns:
            for file in sorted(folder.glob(pattern)):
                for line in _lines(file):
                    name, _, value = line.partition("=")
                    if name.strip().lower() == "version" and value.strip():
                        return value.strip()
        return ""


def visible(environment: Mapping[str, str], variable: str, count: int) -> int:
    """How many of `count` devices a variable such as CUDA_VISIBLE_DEVICES leaves."""
    value = environment.get(variable)
    if value is None:
        return count
    return min(count, len([word for word in value.split(",") if word.strip()]))


def _word(file: Path) -> str:
    return next(_lines(file), "").strip()


def _lines(file: Path) -> Iterator[str]:
    try:
        yield from file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
