"""Temporary folders; the next run removes those of a process that was killed."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

_PREFIX = "glm4v-"
_LOCK = ".temporary.lock"  # locked while the folder is in use


class TemporaryFolder:
    """A folder for this user only, removed by `close`, or when the next one is created.

    Some hold images of users. A killed process cannot remove its folder, but the kernel releases
    its lock: a folder whose lock is free has no owner.

    Attributes:
        path: The folder; it contains only the lock at first.
    """

    def __init__(self, what: str, parent: Path | None = None) -> None:
        """`what` becomes part of the name; `parent` is TMPDIR by default."""
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        _remove_abandoned(parent)
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{what}-", dir=parent))
        # Renamed once it is locked: a free lock of that name was locked before.
        unnamed = self.path / f"{_LOCK}.new"
        self._lock = os.open(unnamed, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unnamed.rename(self.path / _LOCK)

    def close(self) -> None:
        """Remove the folder and its content."""
        try:
            shutil.rmtree(self.path)
        finally:
            os.close(self._lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


def _remove_abandoned(parent: Path) -> None:
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX):
                with contextlib.suppress(OSError):  # another process removes it, or it is not ours
                    _remove_if_abandoned(Path(entry.path))


def _remove_if_abandoned(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(lock)
