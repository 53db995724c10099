"""Watches the processes of a system."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.profile.processes import Cores, Usage, cores, usages
from bench.profile.samples import Sampler


@dataclass(frozen=True, slots=True)
class Seen:
    """What happened while processes were watched; all in seconds."""

    seconds: float
    used: Mapping[str, Usage]  # by process
    cores: Cores
    work: Counter[tuple[str, str]]  # on a core, by process and kind; empty without samples


class Watch:
    """Begins at once.

    Args:
        processes: Process ids by name.
        sampler: Samples what their threads do; None leaves that out.
    """

    def __init__(self, processes: Mapping[str, Sequence[int]], sampler: Sampler | None) -> None:
        self._processes = processes
        self._sampler = sampler
        if sampler is not None:
            sampler.start()
        self._usages, self._cores = usages(processes), cores()
        self._start = time.perf_counter()

    def end(self) -> Seen:
        """What happened since; takes seconds if there are samples."""
        seconds = time.perf_counter() - self._start
        passed, now = cores().since(self._cores), usages(self._processes)
        used = {name: now[name].since(self._usages[name]) for name in now}
        work: Counter[tuple[str, str]] = Counter()
        if self._sampler is not None:
            names = {pid: name for name, pids in self._processes.items() for pid in pids}
            for (pid, kind), sampled_s in self._sampler.stop().items():
                if pid in names:
                    work[names[pid], kind] += sampled_s
        return Seen(seconds, used, passed, work)
