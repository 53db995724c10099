"""The machine during a measurement: memory bandwidth, and the load of other processes."""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

_T = TypeVar("_T")

_READ_BYTES = 256 * 2**20  # larger than any CPU cache
_READS = 5
_PROC_STAT = Path("/proc/stat")


class SideProcess:
    """Runs functions in a process of its own, one at a time.

    OpenMP threads spin only while all threads of their process fit on the cores. Parallel work
    outside the engine's thread would add more threads, and slow every step down.
    """

    def __init__(self, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(
            1, mp_context=spawn, initializer=torch.set_num_threads, initargs=(threads,)
        )

    def __enter__(self) -> "SideProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()

    def call(self, function: Callable[..., _T], *values: object) -> _T:
        """Call a function of a module; returns or raises what it does."""
        return self._executor.submit(function, *values).result()


def read_rates() -> list[float]:
    """Bytes per second that all threads read from a large array, several times."""
    array = torch.ones(_READ_BYTES // 4)
    array.sum()
    rates = []
    for _ in range(_READS):
        start = time.perf_counter()
        array.sum()
        rates.append(_READ_BYTES / (time.perf_counter() - start))
    return rates


class HostLoad:
    """Cores that other processes used since this was created; they lower the measurements."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._before = _foreign_seconds()

    def cores(self) -> float | None:
        """Cores, on average; None where the system does not tell."""
        now = _foreign_seconds()
        if now is None or self._before is None:
            return None
        return max(0.0, now - self._before) / (time.perf_counter() - self._start)


def _foreign_seconds() -> float | None:
    """CPU time of all other processes. Source: /proc/stat in proc(5)."""
    if not _PROC_STAT.exists():
        return None
    names = _PROC_STAT.read_text(encoding="ascii").partition("\n")[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(name) for name in names[:8])
    busy = user + nice + system + irq + softirq + steal
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time()
