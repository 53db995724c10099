"""The most memory that processes held."""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.5
_FIELD = re.compile(r"^(RssAnon|VmHWM):\s+(\d+) kB$", re.MULTILINE)


@dataclass(slots=True)
class Peak:
    """Of one process, in bytes."""

    anonymous: int = 0  # memory of its own: the largest of two samples a second
    resident: int = 0  # with the pages of files that it reads, which the kernel may drop


class PeakMemory:
    """Samples processes until it is cancelled. Source of the numbers: /proc/PID/status.

    `processes` tells their names and ids, also of those that start later.
    """

    def __init__(self, processes: Callable[[], Mapping[str, int]]) -> None:
        self._processes = processes
        self.peaks: dict[str, Peak] = {}

    async def watch(self) -> None:
        """Sample all processes, forever."""
        while True:
            for name, pid in self._processes().items():
                now, peak = _status(pid), self.peaks.setdefault(name, Peak())
                peak.anonymous = max(peak.anonymous, now.get("RssAnon", 0))
                peak.resident = max(peak.resident, now.get("VmHWM", 0))
            await asyncio.sleep(_EVERY_S)


def _status(pid: int) -> dict[str, int]:
    """Fields of a process in bytes; none once it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    return {name: 1024 * int(number) for name, number in _FIELD.findall(text)}
