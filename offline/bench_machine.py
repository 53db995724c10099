"""What the machine gives while something is measured: how fast it reads, who else uses it."""

import os
import time
from pathlib import Path

import torch

_READ_BYTES = 256 * 2**20  # far beyond any cache
_READS = 5
_PROC_STAT = Path("/proc/stat")


class MemoryReader:
    """Reads a large array with all arithmetic threads, as a step reads its weights."""

    def __init__(self) -> None:
        self._array = torch.ones(_READ_BYTES // 4)
        self._array.sum()

    def rates(self) -> list[float]:
        """Bytes a second, of several reads."""
        rates = []
        for _ in range(_READS):
            start = time.perf_counter()
            self._array.sum()
            rates.append(_READ_BYTES / (time.perf_counter() - start))
        return rates


class Neighbours:
    """Cores that other processes used since this was made; figures beside busy ones are too low."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._before = _foreign_seconds()

    def cores(self) -> float | None:
        """Cores' worth of time; None where the system does not tell."""
        now = _foreign_seconds()
        if now is None or self._before is None:
            return None
        return max(0.0, now - self._before) / (time.perf_counter() - self._start)


def _foreign_seconds() -> float | None:
    """Processor time of all processes but this one. Source: /proc/stat in proc(5)."""
    if not _PROC_STAT.exists():
        return None
    names = _PROC_STAT.read_text(encoding="ascii").partition("\n")[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(name) for name in names[:8])
    busy = user + nice + system + irq + softirq + steal
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time()
