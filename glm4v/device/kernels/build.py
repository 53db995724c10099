"""Compiles the kernels for this processor, once for each user and version, and loads them."""

import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from glm4v.errors import Unavailable

log = logging.getLogger(__name__)

_SOURCE = Path(__file__).parent / "source"
_COMPILERS = ("c++", "g++", "clang++")
_NATIVE = "-mcpu=native" if platform.machine() == "aarch64" else "-march=native"
_FLAGS = ("-std=c++17", "-O3", _NATIVE, "-ffp-contract=fast", "-fPIC", "-shared", "-pthread")
_COMPILE_S = 300.0
_CPU_NAMES = ("model name", "flags", "Features", "CPU part", "CPU variant")


def load_library(cache: Path | None = None, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The compiled kernels, from the folder `cache` (None: the user's) or made anew.

    `flags` are for the compiler beside our own. Raises Unavailable, saying why, where there is no
    compiler or it fails.
    """
    compiler = find_compiler()
    command = [compiler, *_FLAGS, *flags]
    name = f"kernels-{_fingerprint(command)}.so"
    try:
        folder = _private_folder(cache or _user_cache())
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several workers start at once: one compiles
            library = folder / name
            if not library.exists():
                _compile(command, library)
            _check_ours(library)
            return ctypes.CDLL(str(library))
    except (OSError, RuntimeError):
        # No home, a full or foreign one, or one that nothing may be run from.
        with tempfile.TemporaryDirectory(prefix="glm4v-kernels-") as ours:
            _compile(command, Path(ours) / name)
            return _load(Path(ours) / name)


def find_compiler() -> str:
    """The path of a C++ compiler: the one that CXX names, or any. Raises Unavailable."""
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else _COMPILERS:
        if (path := shutil.which(name)) is not None:
            return path
    raise Unavailable(
        f"no C++ compiler ({wanted or ', '.join(_COMPILERS)}) is installed; install one, as with "
        "'apt install g++'"
    )


def _fingerprint(command: list[str]) -> str:
    """Of all that the result depends on: sources, compiler and processor."""
    digest = hashlib.sha256("\0".join(command).encode())
    for file in sorted(_SOURCE.iterdir()):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    version = subprocess.run([command[0], "--version"], capture_output=True, check=False)
    digest.update(version.stdout)
    digest.update(_processor().encode())
    return digest.hexdigest()[:32]


def _processor() -> str:
    lines = set()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.partition(":")[0].strip() in _CPU_NAMES:
                lines.add(line)
    except OSError:
        pass  # not Linux
    return "\n".join([platform.platform(), *sorted(lines)])


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glm4v-serve"


def _private_folder(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_ours(folder)
    return folder


def _check_ours(path: Path) -> None:
    """What others can write is not run."""
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} can be written by others")


def _compile(command: list[str], library: Path) -> None:
    """Write `library`, whole or not at all."""
    log.info("compiling the kernels with %s, which is done once", command[0])
    unfinished = library.with_suffix(f".{os.getpid()}")
    sources = sorted(map(str, _SOURCE.glob("*.cpp")))
    try:
        done = subprocess.run(
            [*command, *sources, "-o", str(unfinished)],
            capture_output=True,
            text=True,
            timeout=_COMPILE_S,
            check=False,
        )
        if done.returncode != 0:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "")
            raise Unavailable(f"{command[0]} cannot compile the kernels: {reason}")
        unfinished.chmod(0o700)
        unfinished.rename(library)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[0]} took more than {_COMPILE_S:g} s") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _load(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise Unavailable(f"the compiled kernels cannot be loaded: {error}") from None
