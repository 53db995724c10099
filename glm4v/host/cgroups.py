"""The control groups of this process, which hold the limits of its container."""

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def groups_of(controller: str, proc: Path, cgroups: Path) -> Iterator[tuple[Path, int]]:
    """Folders of our group and of each group above it, with the version of cgroups, 1 or 2.

    The limits of all of them apply. Yields nothing without cgroups. Sources: cgroups(7), the
    kernel's documentation of cgroup v1 and v2.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # no cgroups, no limits
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            base, version = cgroups, 2
        elif controller in controllers.split(","):
            base, version = cgroups / controller, 1
            if not base.exists():  # mounted under the names of all its controllers, without a link
                base = cgroups / controllers
        else:
            continue
        group = base / path.lstrip("/")
        # In a container the path may be that of the host; then the visible root is our group.
        while group != base:
            yield group, version
            group = group.parent
        yield base, version


def words_of(path: Path) -> list[str]:
    """The words of a file of a group; empty if there is no such file."""
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []
