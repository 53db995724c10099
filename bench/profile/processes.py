"""What processes and cores did meanwhile. Source: proc(5), and sched-stats of the Linux kernel."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_NS = 1e9


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds of all threads of some processes, summed.

    `system_s` is the part of `run_s` inside the kernel, counted in hundredths of a second.
    """

    run_s: float  # on a core
    system_s: float
    wait_s: float  # ready, while others had the cores
    switches: int  # times a thread was given a core

    def since(self, earlier: "Usage") -> "Usage":
        """What was used after `earlier`."""
        return Usage(
            self.run_s - earlier.run_s,
            self.system_s - earlier.system_s,
            self.wait_s - earlier.wait_s,
            self.switches - earlier.switches,
        )


@dataclass(frozen=True, slots=True)
class Cores:
    """Seconds of all cores, summed."""

    idle_s: float
    disk_wait_s: float  # idle, while a thread waits for a disk
    busy_s: float

    def since(self, earlier: "Cores") -> "Cores":
        """What passed after `earlier`."""
        return Cores(
            self.idle_s - earlier.idle_s,
            self.disk_wait_s - earlier.disk_wait_s,
            self.busy_s - earlier.busy_s,
        )


def with_children(pid: int) -> list[int]:
    """The process and all processes below it."""
    found = [pid]
    for task in _tasks(pid):
        with suppress(OSError):
            for child in (task / "children").read_text(encoding="ascii").split():
                found += with_children(int(child))
    return found


def usage(pids: Sequence[int]) -> Usage:
    """Of the processes that run; their threads that have ended do not count."""
    run = wait = switches = ticks = 0
    for pid in pids:
        for task in _tasks(pid):
            with suppress(OSError):
                schedule = (task / "schedstat").read_text(encoding="ascii").split()
                run, wait = run + int(schedule[0]), wait + int(schedule[1])
                switches += int(schedule[2])
                after_name = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2]
                ticks += int(after_name.split()[12])
    return Usage(run / _NS, ticks / os.sysconf("SC_CLK_TCK"), wait / _NS, switches)


def usages(groups: Mapping[str, Sequence[int]]) -> dict[str, Usage]:
    """Of each named group of processes."""
    return {name: usage(pids) for name, pids in groups.items()}


def cores() -> Cores:
    """Of the machine, since it started."""
    names = (_PROC / "stat").read_text(encoding="ascii").partition("\n")[0].split()[1:]
    user, nice, system, idle, disk_wait, irq, softirq, steal = (int(name) for name in names[:8])
    ticks = os.sysconf("SC_CLK_TCK")
    busy = user + nice + system + irq + softirq + steal
    return Cores(idle / ticks, disk_wait / ticks, busy / ticks)


def _tasks(pid: int) -> Iterator[Path]:
    with suppress(OSError):
        yield from (_PROC / str(pid) / "task").iterdir()
