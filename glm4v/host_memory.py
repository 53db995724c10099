"""How much host memory this process may still take: the machine's, or its container's if less."""

from collections.abc import Iterator
from pathlib import Path

from glm4v.errors import Unavailable


def free_host_memory_bytes(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int:
    """Bytes that can be allocated without swapping or meeting a cgroup limit.

    Sources: MemAvailable in proc(5); memory.max, memory.current and memory.stat in the kernel's
    cgroup v2 documentation, memory.limit_in_bytes and memory.usage_in_bytes in that of v1.
    Raises Unavailable where the system does not tell.
    """
    return max(0, min([_machine_bytes(proc), *_group_bytes(proc, cgroups)]))


def _machine_bytes(proc: Path) -> int:
    path = proc / "meminfo"
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError as error:
        raise Unavailable(
            f"{path}: free memory is not known ({error.strerror}); set the size of the cache"
        ) from None
    raise Unavailable(f"{path}: no MemAvailable line; set the size of the cache")


def _group_bytes(proc: Path, cgroups: Path) -> Iterator[int]:
    """What each limit on the way from the root to our group leaves."""
    for group, limit, used, cache in _groups(proc, cgroups):
        most = _number(group / limit)
        now = _number(group / used)
        if most is not None and now is not None:
            # Cached file pages count as used, but the kernel drops them on demand.
            yield most - now + _stat(group / "memory.stat", cache)


def _groups(proc: Path, cgroups: Path) -> Iterator[tuple[Path, str, str, str]]:
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # a kernel without cgroups sets no limits
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            base = cgroups
            names = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = base / path.lstrip("/")
        # Inside a container the path may be the host's; then only the root is visible, and ours.
        while group != base:
            yield group, *names
            group = group.parent
        yield base, *names


def _number(path: Path) -> int | None:
    """The number in a file; None for "max" or where there is no such file."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _stat(path: Path, name: str) -> int:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + " ")), 0)
