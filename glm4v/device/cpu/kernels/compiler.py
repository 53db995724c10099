"""Compiles the kernels, by any C++ compiler that knows vector types (GCC, Clang)."""

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
    """The path of a C++ compiler: the one that CXX names, or any. Raises Unavailable."""
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else _COMPILERS:
        if (path := shutil.which(name)) is not None:
            return path
    raise Unavailable(
        f"no C++ compiler ({wanted or ', '.join(_COMPILERS)}) is installed; install one, as with "
        "'apt install g++'"
    )


@functools.cache
def source_digest() -> str:
    """Of the sources and how they are compiled, but for the processor: their version."""
    digest = hashlib.sha256("\0".join(FLAGS).encode())
    for file in sorted(SOURCE.iterdir()):
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def compile_kernels(flags: Sequence[str], library: Path) -> None:
    """Write `library`, whole or not at all, by `flags` beside our own.

    Raises Unavailable, saying why, where there is no compiler or it fails.
    """
    compiler = find_compiler()
    log.info("compiling the kernels with %s, which is done once", compiler)
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
            raise Unavailable(f"{compiler} cannot compile the kernels: {reason}")
        unfinished.chmod(0o700)
        unfinished.rename(library)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{compiler} took more than {_COMPILE_S:g} s") from None
    finally:
        unfinished.unlink(missing_ok=True)
