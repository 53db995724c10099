"""What was found, and what is missing."""

from collections.abc import Iterable
from dataclasses import dataclass, field

GATEWAY = "gateway"
VISION = "vision worker"
LANGUAGE = "language worker"
WORKERS = (VISION, LANGUAGE)
EVERY_PROCESS = (GATEWAY, *WORKERS)


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that a process needs, on one device or on any."""

    what: str  # one line
    fix: str  # a command, or what to do where there is none
    processes: tuple[str, ...]
    device: str = ""  # "cpu", "cuda" or "npu"; empty: whatever the device


@dataclass(slots=True)
class Report:
    """The result of an examination."""

    facts: dict[str, list[str]] = field(default_factory=dict)  # by area, one line each
    missing: list[Missing] = field(default_factory=list)
    advice: list[Missing] = field(default_factory=list)  # works without it, but worse
    devices: dict[str, bool] = field(default_factory=dict)  # kinds found; whether one opened
    default_device: str = ""  # that GLM4V_DEVICE chooses; empty if it could not be opened

    def add(self, area: str, *lines: str) -> None:
        """Note facts."""
        self.facts.setdefault(area, []).extend(line for line in lines if line)

    def lack(self, missing: Iterable[Missing]) -> None:
        """Note what is missing."""
        self.missing += missing

    def can_run(self, process: str, device: str) -> bool:
        """Whether nothing is missing for a process on a kind of device."""
        if process in WORKERS and not self.devices.get(device, False):
            return False
        return not any(
            process in missing.processes and missing.device in ("", device)
            for missing in self.missing
        )

    @property
    def can_serve(self) -> bool:
        """Whether all processes can run with the default device."""
        kind = self.default_device.partition(":")[0]
        return bool(kind) and all(self.can_run(process, kind) for process in EVERY_PROCESS)
