"""How many CPUs this process may use: the smaller of its affinity and its container's quota."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from glm4v.host.cgroups import CGROUPS, PROC, groups_of, words_of


def usable_cpus(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """CPUs, at least 1.

    A fractional quota is rounded to the nearest number, a half up: with more threads than the quota
    the kernel throttles all of them each period, with fewer a share is unused. Rounding keeps both
    below half a CPU. Sources: cpu.max in the kernel's documentation of cgroup v2,
    cpu.cfs_quota_us and cpu.cfs_period_us in that of v1.
    """
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min([allowed, *(int(share + 0.5) for share in _quotas(proc, cgroups))]))


def _quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """The quota of our group and of each group above it, in CPUs."""
    for group, version in groups_of("cpu", proc, cgroups):
        if version == 2:
            words = words_of(group / "cpu.max")
        else:
            words = words_of(group / "cpu.cfs_quota_us") + words_of(group / "cpu.cfs_period_us")
        if len(words) == 2 and all(word.isdigit() for word in words):  # else "max", or -1
            quota_us, period_us = map(int, words)
            yield quota_us / period_us
