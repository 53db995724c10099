"""How much host memory this process may still allocate: the least that any limit leaves."""

import os
from collections.abc import Iterator
from pathlib import Path

from glm4v.errors import Unavailable
from glm4v.host.cgroups import CGROUPS, PROC, groups_of, words_of

_NEVER_OVERCOMMIT = 2  # of vm.overcommit_memory
# By version of cgroups: the files of a group with its limit and its usage, and the field of
# memory.stat with reclaimable file pages.
_NAMES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def free_host_memory_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that can be allocated without swapping or reaching a limit: of a cgroup, of the
    process (`ulimit -v`, `ulimit -d`), or of a system that never overcommits.

    Sources: MemAvailable, CommitLimit, statm and limits in proc(5); memory.max, memory.current and
    memory.stat in the kernel's cgroup v2 documentation, memory.limit_in_bytes and
    memory.usage_in_bytes in that of v1.
    Raises Unavailable if the system does not report it.
    """
    limits = [*_machine_bytes(proc), *_process_bytes(proc), *_group_bytes(proc, cgroups)]
    return max(0, min(limits))


def _machine_bytes(proc: Path) -> Iterator[int]:
    path = proc / "meminfo"
    try:
        lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
        found = {words[0]: int(words[1]) * 1024 for words in lines if len(words) > 1}
    except OSError as error:
        raise Unavailable(
            f"{path}: free memory is unknown ({error.strerror}); set GLM4V_KV_CACHE_BYTES"
        ) from None
    if "MemAvailable:" not in found:
        raise Unavailable(f"{path}: no MemAvailable line; set GLM4V_KV_CACHE_BYTES")
    yield found["MemAvailable:"]
    if _number(proc / "sys" / "vm" / "overcommit_memory") == _NEVER_OVERCOMMIT:
        yield found["CommitLimit:"] - found["Committed_AS:"]


def _process_bytes(proc: Path) -> Iterator[int]:
    """What the limits of this process leave: address space and data segment."""
    try:
        pages = (proc / "self" / "statm").read_text(encoding="ascii").split()
        limits = (proc / "self" / "limits").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    page = os.sysconf("SC_PAGE_SIZE")
    used = {"Max address space": int(pages[0]) * page, "Max data size": int(pages[5]) * page}
    for line in limits:
        for name, now in used.items():
            words = line.removeprefix(name).split()
            if line.startswith(name) and words[0].isdigit():
                yield int(words[0]) - now


def _group_bytes(proc: Path, cgroups: Path) -> Iterator[int]:
    """What the limits of our group and of each group above it leave."""
    for group, version in groups_of("memory", proc, cgroups):
        limit, used, cache = _NAMES[version]
        most = _number(group / limit)
        now = _number(group / used)
        if most is not None and now is not None:
            # Cached file pages count as used, but the kernel reclaims them on demand.
            yield most - now + _stat(group / "memory.stat", cache)


def _number(path: Path) -> int | None:
    """The number in a file; None for "max" or if there is no such file."""
    words = words_of(path)
    return int(words[0]) if words and words[0].isdigit() else None


def _stat(path: Path, name: str) -> int:
    """A value of memory.stat, whose lines are a name and a number."""
    words = words_of(path)
    return next((int(words[at + 1]) for at, word in enumerate(words) if word == name), 0)
