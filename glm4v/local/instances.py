"""Instances of `glm4v up` of this user that started their own Redis: one file for each.

The files are in a folder that only this user can open. Each is locked while its process runs. The
kernel releases the lock however the process ends, so a file that can be locked is stale.
"""

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from glm4v.errors import Unavailable

_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Instance:
    """The addresses of a running `glm4v up`."""

    target: str  # the gateway, HOST:PORT
    redis_url: str
    namespace: str = "glm4v"


@contextmanager
def register_instance(system: Instance) -> Iterator[None]:
    """Let other commands of this user find an instance. Raises Unavailable."""
    handle, path = _new_file()
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, json.dumps(asdict(system)).encode())
        path = path.rename(path.with_suffix(_SUFFIX))  # complete and locked before others see it
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        with suppress(OSError):  # other instances remain
            path.parent.rmdir()


def running_instances() -> list[Instance]:
    """The running instances, ordered by gateway address. Raises Unavailable."""
    folder = _folder()
    if not folder.exists():
        return []
    _check(folder)
    found = (_read(path) for path in folder.glob(f"*{_SUFFIX}"))
    return sorted((each for each in found if each is not None), key=lambda each: each.target)


def _new_file() -> tuple[int, Path]:
    """A new file that only this user can read. Another instance may be removing the folder."""
    while True:
        folder = _folder()
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _check(folder)
        with suppress(FileNotFoundError):
            handle, name = tempfile.mkstemp(dir=folder)
            return handle, Path(name)


def _read(path: Path) -> Instance | None:
    try:
        with path.open("rb") as file:
            if _can_lock(file.fileno()):
                path.unlink(missing_ok=True)
                return None
            return Instance(**json.loads(file.read()))
    except (OSError, TypeError, ValueError):  # the instance has just ended, or the file is not ours
        return None


def _can_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _folder() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / "glm4v"
    return Path(tempfile.gettempdir()) / f"glm4v-run-{os.getuid()}"


def _check(folder: Path) -> None:
    """The folder must belong to this user: in a shared /tmp, others may create it first."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise Unavailable(f"folder {folder} is accessible to other users; remove it, or set TMPDIR")
