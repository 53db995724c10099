"""Finds a library of the kernels: compiled ahead, or once for this user, processor and version."""

import ctypes
import fcntl
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from glm4v.device.cpu.kernels import processor
from glm4v.device.cpu.kernels.compiler import compile_kernels, source_digest
from glm4v.device.cpu.kernels.variants import prebuilt
from glm4v.errors import Unavailable

log = logging.getLogger(__name__)

_KEPT = 8  # compiled libraries of a user, the latest used


def load_library(cache: Path | None = None, folder: Path | None = None) -> ctypes.CDLL:
    """The best library in `folder` (None: the package's), else that for this processor alone, from
    the folder `cache` (None: the user's) or new.

    Raises Unavailable, saying why, where none fits and there is no compiler or it fails.
    """
    for library in prebuilt(folder):
        try:
            return _load(library)
        except OSError as error:  # of another C library, for one
            log.warning("%s cannot be loaded: %s", library, error)
    return load_compiled([processor.native_flag()], cache)


def load_compiled(flags: Sequence[str], cache: Path | None = None) -> ctypes.CDLL:
    """The library that `flags` give, from the folder `cache` (None: the user's) or new.

    Raises Unavailable as `load_library`.
    """
    name = f"kernels-{source_digest()}-{_key(flags)}.so"
    try:
        library = _private_folder(cache or _user_cache()) / name
        if not library.exists():
            _compile_once(flags, library)
        _check_ours(library)
        with suppress(OSError):  # a file system that is read only
            os.utime(library)
        return _load(library)
    except (OSError, RuntimeError) as error:
        # No home, a full or foreign one, or one that nothing may be run from.
        log.warning("kernels are compiled for this process alone: %s", error)
    with tempfile.TemporaryDirectory(prefix="glm4v-kernels-") as temporary:
        library = Path(temporary) / name
        try:
            compile_kernels(flags, library)
            return _load(library)
        except OSError as error:
            raise Unavailable(f"the compiled kernels cannot be loaded: {error}") from None


def _compile_once(flags: Sequence[str], library: Path) -> None:
    """Several workers start at once: one compiles, and tidies up."""
    with library.with_name("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            compile_kernels(flags, library)
            _prune(library.parent)


def _load(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    log.info("kernels from %s", library)
    return loaded


def _key(flags: Sequence[str]) -> str:
    """Of what the result depends on beside the sources.

    Not of the compiler's version: what is there is found when there is no compiler any more.
    """
    parts = [*flags, os.environ.get("CXX", ""), processor.description()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glm4v-serve"


def _private_folder(folder: Path) -> Path:
    """`folder`, made if need be; raises OSError when others may write there, or move it away."""
    for missing in reversed((folder, *folder.parents)):
        missing.mkdir(mode=0o700, exist_ok=True)
    folder = folder.resolve()
    _check_ours(folder)
    for parent in folder.parents:
        status = parent.stat()
        is_theirs = status.st_uid not in (0, os.geteuid())
        is_open = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        if is_theirs or (is_open and not status.st_mode & stat.S_ISVTX):
            raise PermissionError(f"{parent}, above {folder}, can be written by others")
    return folder


def _check_ours(path: Path) -> None:
    """What others can write is not run."""
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} can be written by others")


def _prune(folder: Path) -> None:
    """Remove what earlier versions and other processors left, but for the latest used, and what
    compilers that were killed left. Nobody compiles meanwhile.
    """
    found = sorted(folder.glob("kernels-*"), key=lambda file: file.stat().st_mtime)
    libraries = [file for file in found if file.suffix == ".so"]
    for file in (*libraries[:-_KEPT], *(file for file in found if file.suffix != ".so")):
        file.unlink()
