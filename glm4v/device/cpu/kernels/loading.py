"""Finds the kernel library: prebuilt, cached for this user and processor, or compiled now."""

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

_KEPT = 8  # most recently used libraries that stay in the user's cache


def load_library(cache: Path | None = None, folder: Path | None = None) -> ctypes.CDLL:
    """The best prebuilt library in `folder` (None: the package's), else one for this processor,
    from the folder `cache` (None: the user's) or compiled now.

    Raises Unavailable when none fits and compiling is not possible.
    """
    for library in prebuilt(folder):
        try:
            return _load(library)
        except OSError as error:  # built for another C library, for example
            log.warning("%s cannot be loaded: %s", library, error)
    return load_compiled([processor.native_flag()], cache)


def load_compiled(flags: Sequence[str], cache: Path | None = None) -> ctypes.CDLL:
    """The library compiled with `flags`, from the folder `cache` (None: the user's) or new.

    Raises Unavailable like `load_library`.
    """
    name = f"kernels-{source_digest()}-{_key(flags)}.so"
    try:
        library = _private_folder(cache or _user_cache()) / name
        if not library.exists():
            _compile_once(flags, library)
        _check_ours(library)
        with suppress(OSError):  # read-only file system
            os.utime(library)
        return _load(library)
    except (OSError, RuntimeError) as error:
        # No home, not writable, full, or mounted noexec.
        log.warning("no usable cache, compiling the kernels for this process only: %s", error)
    with tempfile.TemporaryDirectory(prefix="glm4v-kernels-") as temporary:
        library = Path(temporary) / name
        try:
            compile_kernels(flags, library)
            return _load(library)
        except OSError as error:
            raise Unavailable(f"the compiled kernels cannot be loaded: {error}") from None


def _compile_once(flags: Sequence[str], library: Path) -> None:
    """Compile and prune under a lock: several workers may start at once."""
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
    """Digest of what the library depends on besides the sources.

    Excludes the compiler's version, so that a cached library is found without a compiler.
    """
    parts = [*flags, os.environ.get("CXX", ""), processor.description()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glm4v-serve"


def _private_folder(folder: Path) -> Path:
    """`folder`, created if missing; raises OSError when other users can write to or move it."""
    for missing in reversed((folder, *folder.parents)):
        missing.mkdir(mode=0o700, exist_ok=True)
    folder = folder.resolve()
    _check_ours(folder)
    for parent in folder.parents:
        status = parent.stat()
        is_theirs = status.st_uid not in (0, os.geteuid())
        is_open = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        if is_theirs or (is_open and not status.st_mode & stat.S_ISVTX):
            raise PermissionError(f"{parent}, a parent of {folder}, is writable by other users")
    return folder


def _check_ours(path: Path) -> None:
    """Raise PermissionError for a path that other users own or can write to."""
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} is writable by other users")


def _prune(folder: Path) -> None:
    """Remove all but the most recently used libraries, and the output of killed compilers.

    The caller holds the lock.
    """
    found = sorted(folder.glob("kernels-*"), key=lambda file: file.stat().st_mtime)
    libraries = [file for file in found if file.suffix == ".so"]
    for file in (*libraries[:-_KEPT], *(file for file in found if file.suffix != ".so")):
        file.unlink()
