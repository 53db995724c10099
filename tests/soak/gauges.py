"""What a process holds: memory, descriptors and threads, read from /proc."""

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.fleet import Fleet

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one process."""

    at_s: float  # since the beginning
    resident_bytes: int
    descriptors: int
    threads: int


def look(pid: int, at_s: float) -> Sample:
    """Raises OSError when the process is gone."""
    folder = Path(f"/proc/{pid}")
    pages = int((folder / "statm").read_text().split()[1])
    counts = (sum(1 for _ in (folder / kind).iterdir()) for kind in ("fd", "task"))
    return Sample(at_s, pages * _PAGE_BYTES, *counts)


@dataclass
class Gauges:
    """Looks at some processes of a fleet again and again; each must stay the same process."""

    fleet: Fleet
    names: tuple[str, ...]
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    async def run(self, every_s: float) -> None:
        """Look until cancelled. Raises OSError when one of the processes has ended."""
        began = time.monotonic()
        while True:
            at_s = time.monotonic() - began
            for name in self.names:
                pid = self.fleet.redis.pid if name == "redis" else self.fleet.pid(name)
                self.samples.setdefault(name, []).append(look(pid, at_s))
            await asyncio.sleep(every_s)
