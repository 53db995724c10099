"""Prebuilt kernels, one library per processor level.

They are in the package's folder `prebuilt`; `make kernels` writes them when a wheel or an image is
built.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glm4v.device.cpu.kernels import processor
from glm4v.device.cpu.kernels.compiler import source_digest

PREBUILT = Path(__file__).parent / "prebuilt"

_X86_64_V3 = frozenset(["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"])
_X86_64_V4 = _X86_64_V3 | frozenset(["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"])


@dataclass(frozen=True, slots=True)
class Variant:
    """A processor level."""

    name: str  # the compiler's -march
    machine: str
    needs: frozenset[str]  # feature flags of /proc/cpuinfo

    @property
    def flag(self) -> str:
        """The compiler flag."""
        return f"-march={self.name}"

    @property
    def file_name(self) -> str:
        """Name of the library built from the current sources."""
        return f"kernels-{source_digest()}-{self.name}.so"


# Best first. Sources: the x86-64 psABI levels; the ARM architecture manual.
VARIANTS = (
    Variant("x86-64-v4", "x86_64", _X86_64_V4),
    Variant("x86-64-v3", "x86_64", _X86_64_V3),
    Variant("armv8.2-a", "aarch64", frozenset(("asimd", "asimdrdm", "atomics", "dcpop"))),
)


def fitting() -> Iterator[Variant]:
    """The variants that this processor can run, best first."""
    for variant in VARIANTS:
        if variant.machine == processor.machine() and variant.needs <= processor.features():
            yield variant


def prebuilt(folder: Path | None = None) -> Iterator[Path]:
    """The libraries in `folder` that fit the processor and the sources, best first."""
    for variant in fitting():
        library = (folder or PREBUILT) / variant.file_name
        if library.exists():
            yield library
