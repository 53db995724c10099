"""What runs on this machine for this user: one file for each `glm4v up` with a Redis of its own.

The files lie in a folder that only this user can enter. A file is locked for as long as its process
lives; the lock goes with the process, however it ends, so a file that can be locked is left over.
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
    """Where a running `glm4v up` is to be found."""

    target: str  # of its gateway, HOST:PORT
    redis_url: str


@contextmanager
def register_instance(system: Instance) -> Iterator[None]:
    """Let other commands of this user find a system. Raises Unavailable."""
    handle, path = _new_file()
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, json.dumps(asdict(system)).encode())
        path = path.rename(path.with_suffix(_SUFFIX))  # whole and locked when it is seen
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        with suppress(OSError):  # there are others
            path.parent.rmdir()


def running_instances() -> list[Instance]:
    """The systems that run now, in the order of their gateways. Raises Unavailable."""
    folder = _folder()
    if not folder.exists():
        return []
    _check(folder)
    found = (_read(path) for path in folder.glob(f"*{_SUFFIX}"))
    return sorted((each for each in found if each is not None), key=lambda each: each.target)


def _new_file() -> tuple[int, Path]:
    """A file that only this user can read; the last one to leave may be removing the folder."""
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
    except (OSError, TypeError, ValueError):  # it ended meanwhile, or is none of ours
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
    """It must be this user's own: in a folder for all, somebody else may have made it first."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise Unavailable(
            f"folder {folder} is open to others; remove it, or name another in TMPDIR"
        )
