"""How many CPUs this process may keep busy: its affinity, or its container's share if less."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from glm4v.host.cgroups import CGROUPS, PROC, groups_of, words_of


def usable_cpus(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """CPUs, at least 1.

    A quota of a fraction is rounded to the nearest number, a half up: threads beyond the quota are
    stopped together for the rest of each period, those below leave a share unused, and so neither
    is more than half a CPU. Sources: cpu.max in the kernel's documentation of cgroup v2,
    cpu.cfs_quota_us and cpu.cfs_period_us in that of v1.
    """
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min([allowed, *(int(share + 0.5) for share in _quotas(proc, cgroups))]))


def _quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """CPUs that each limit on the way from the root to our group leaves."""
    for group, version in groups_of("cpu", proc, cgroups):
        if version == 2:
            words = words_of(group / "cpu.max")
        else:
            words = words_of(group / "cpu.cfs_quota_us") + words_of(group / "cpu.cfs_period_us")
        if len(words) == 2 and all(word.isdigit() for word in words):  # else "max", or -1
            quota_us, period_us = map(int, words)
            yield quota_us / period_us
