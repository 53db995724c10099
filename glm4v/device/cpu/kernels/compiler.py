"""Compiles the kernels with any C++ compiler that has vector types (GCC, Clang)."""

import functools
import hashlib
import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from glm4v.errors import Unavailable

log = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "source"
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread")
_COMPILERS = ("c++", "g++", "clang++")
_COMPILE_S = 300.0


def find_compiler() -> str:
    """Path of the C++ compiler: $CXX, else the first one found. Raises Unavailable."""
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else _COMPILERS:
        if (path := shutil.which(name)) is not None:
            return path
    raise Unavailable(
        f"no C++ compiler found ({wanted or ', '.join(_COMPILERS)}); install one, for example with "
        "'apt install g++'"
    )


@functools.cache
def source_digest() -> str:
    """Digest of the sources and the common compiler flags: the version of the kernels."""
    digest = hashlib.sha256("\0".join(FLAGS).encode())
    for file in sorted(SOURCE.iterdir()):
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def compile_kernels(flags: Sequence[str], library: Path) -> None:
    """Compile to `library`, atomically, with `flags` added to the common ones.

    Raises Unavailable when there is no compiler or it fails.
    """
    compiler = find_compiler()
    log.info("compiling the CPU kernels with %s (once)", compiler)
    unfinished = library.with_suffix(f".{os.getpid()}")
    sources = sorted(map(str, SOURCE.glob("*.cpp")))
    try:
        done = subprocess.run(
            [compiler, *FLAGS, *flags, *sources, "-o", str(unfinished)],
            capture_output=True,
            text=True,
            timeout=_COMPILE_S,
            check=False,
        )
        if done.returncode != 0:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "")
            raise Unavailable(f"{compiler} failed to compile the kernels: {reason}")
        unfinished.chmod(0o700)
        unfinished.rename(library)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{compiler} did not finish within {_COMPILE_S:g} s") from None
    finally:
        unfinished.unlink(missing_ok=True)
