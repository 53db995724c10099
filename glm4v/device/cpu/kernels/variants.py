"""Kernels compiled ahead, each for all processors from some level on.

They lie in the package, in the folder `prebuilt`, where `make kernels` writes them when a wheel or
an image is made.
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
    """A level of processors."""

    name: str  # as the compiler's -march has it
    machine: str
    needs: frozenset[str]  # features, as /proc/cpuinfo has them

    @property
    def flag(self) -> str:
        """For the compiler."""
        return f"-march={self.name}"

    @property
    def file_name(self) -> str:
        """Of the library, for the sources as they are."""
        return f"kernels-{source_digest()}-{self.name}.so"


# Of each machine the best first. Sources: the levels of the psABI for x86-64; the ARM manual.
VARIANTS = (
    Variant("x86-64-v4", "x86_64", _X86_64_V4),
    Variant("x86-64-v3", "x86_64", _X86_64_V3),
    Variant("armv8.2-a", "aarch64", frozenset(("asimd", "asimdrdm", "atomics", "dcpop"))),
)


def fitting() -> Iterator[Variant]:
    """Those that this processor can run, the best first."""
    for variant in VARIANTS:
        if variant.machine == processor.machine() and variant.needs <= processor.features():
            yield variant


def prebuilt(folder: Path | None = None) -> Iterator[Path]:
    """The libraries in `folder` that fit processor and sources, the best first."""
    for variant in fitting():
        library = (folder or PREBUILT) / variant.file_name
        if library.exists():
            yield library
