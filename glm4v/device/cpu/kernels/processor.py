"""What processor this is, for kernels that are compiled for one kind of it or for one alone."""

import functools
import platform
import sys
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_KINDS = ("model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant")


@functools.cache
def machine() -> str:
    """As GCC and Linux spell it: "x86_64", "aarch64", ..."""
    name = platform.machine().lower()
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)


def native_flag() -> str:
    """What compiles for this very processor; -march is another thing on ARM, and Apple lacks it."""
    return "-mcpu=native" if machine() == "aarch64" else "-march=native"


@functools.cache
def features() -> frozenset[str]:
    """What it can do, in the words of /proc/cpuinfo; nothing where there is no such file."""
    names = ("flags", "Features")
    words = (value.split() for name, value in _lines() if name in names)
    return frozenset(word for line in words for word in line)


def description() -> str:
    """Differs where code for one processor may not run on the other.

    The C library counts, which code is linked with; the kernel of the system does not.
    """
    kinds = {f"{name}:{value}" for name, value in _lines() if name in _KINDS}
    return "\n".join([sys.platform, machine(), *platform.libc_ver(), *sorted(kinds)])


@functools.cache
def _lines() -> tuple[tuple[str, str], ...]:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()  # not Linux
    parts = (line.partition(":") for line in lines)
    return tuple((name.strip(), value.strip()) for name, _, value in parts)
