"""Files of API keys: `NAME sha256:DIGEST TIME`, one key a line.

The text of a line is in no error: somebody may have put a key there.
"""

import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from glm4v.api_keys.key import NAME, KeyEntry
from glm4v.errors import ConfigurationError

_HEADER = (
    "# API keys of a gateway (GLM4V_API_KEYS); `glm4v keys` changes them. Only digests are here.\n"
)
_SCHEME = "sha256:"
_LINE = re.compile(rf"({NAME})\s+{_SCHEME}([0-9a-f]{{64}})(?:\s+(\S+))?")
_MAX_BYTES = 4 * 2**20  # 30 000 keys
_MODE = 0o600


def read_key_files(path: Path) -> list[KeyEntry]:
    """The keys of a file, or of all files of a folder whose names do not begin with a dot.

    Raises ConfigurationError for what cannot be read, is no such file, or may be written by anyone.
    """
    try:
        files = key_files(path)
    except OSError as error:
        raise ConfigurationError(f"API keys {path}: {error.strerror}") from None
    entries = [entry for file in files for entry in _read(file)]
    if len({entry.digest for entry in entries}) < len(entries):
        raise ConfigurationError(
            f"API keys {path}: the same key is there twice; is one file a copy?"
        )
    return entries


def key_files(path: Path) -> list[Path]:
    """The file, or those of a folder. Raises OSError if there is neither.

    Kubernetes mounts a secret as a folder of links; the files themselves are in hidden folders,
    and would be found twice.
    """
    path.stat()
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if not each.name.startswith("."))


@contextmanager
def changed_key_file(path: Path) -> Iterator[list[KeyEntry]]:
    """The keys of a file, to be changed inside; written at the end, unless there is an error.

    A new file is for its owner only; another one keeps its permissions. Readers see the former file
    or the new one, and nobody else changes it meanwhile. Raises ConfigurationError.
    """
    path = path.resolve()  # the target of a link is replaced, not the link
    if path.is_dir():
        raise ConfigurationError(f"API keys {path}: a folder; name a file in it")
    try:
        with _locked(path.parent):
            before = _read(path) if path.exists() else []
            entries = list(before)
            yield entries
            if entries != before:
                _replace(path, entries)
    except OSError as error:
        raise ConfigurationError(f"API keys {path}: {error.strerror}") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> list[KeyEntry]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"API keys {path}: {error.strerror}") from None
    if mode & stat.S_IWOTH:
        raise ConfigurationError(f"API keys {path}: anyone may write it; use chmod o-w")
    if len(data) > _MAX_BYTES:
        raise ConfigurationError(f"API keys {path}: above {_MAX_BYTES} bytes")
    lines = enumerate(data.decode("utf-8", "replace").split("\n"), 1)
    return [
        _entry(path, number, line)
        for number, line in lines
        if line.strip() and not line.startswith("#")
    ]


def _entry(path: Path, number: int, line: str) -> KeyEntry:
    found = _LINE.fullmatch(line.strip())
    if found is None:
        raise ConfigurationError(
            f"API keys {path}: line {number} is not NAME sha256:DIGEST TIME, as `glm4v keys new` "
            "writes it"
        )
    return KeyEntry(*found.groups(default=""))


def _replace(path: Path, entries: Iterable[KeyEntry]) -> None:
    lines = [f"{each.name} {_SCHEME}{each.digest} {each.created}".rstrip() for each in entries]
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(_HEADER + "".join(f"{line}\n" for line in lines))
            _copy_permissions(path, file.fileno())
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _copy_permissions(path: Path, descriptor: int) -> None:
    """Those of the former file: the gateway may run as another user than who changes its keys."""
    try:
        former = path.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, _MODE)
        return
    if os.geteuid() == 0:
        os.fchown(descriptor, former.st_uid, former.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(former.st_mode))
