"""Which processor this is: kernels are compiled for a level of processors, or for this one."""

import functools
import platform
import sys
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_KINDS = ("model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant")


@functools.cache
def machine() -> str:
    """The architecture as GCC and Linux spell it: "x86_64", "aarch64", ..."""
    name = platform.machine().lower()
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)


def native_flag() -> str:
    """The compiler flag for this processor; -march differs on ARM, and Apple's lacks "native"."""
    return "-mcpu=native" if machine() == "aarch64" else "-march=native"


@functools.cache
def features() -> frozenset[str]:
    """The feature flags of /proc/cpuinfo; empty where there is no such file."""
    names = ("flags", "Features")
    words = (value.split() for name, value in _lines() if name in names)
    return frozenset(word for line in words for word in line)


def description() -> str:
    """A text that differs between machines that may not run each other's code.

    It includes the C library, which the kernels are linked with, but not the operating system's
    kernel.
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
