"""Builds the kernel libraries for wheels and images.

Usage: python -m glm4v.device.cpu.kernels.prebuild [DIR]

The compiler is $CXX, else the first one found; its target decides which variants are built, so
CXX=aarch64-linux-gnu-g++ cross-compiles those of aarch64.
"""

import subprocess
import sys
from pathlib import Path

from glm4v.device.cpu.kernels.compiler import compile_kernels, find_compiler
from glm4v.device.cpu.kernels.variants import PREBUILT, VARIANTS, Variant
from glm4v.errors import Unavailable


def prebuild(folder: Path) -> list[Path]:
    """Build all variants of the compiler's target in `folder`, and remove outdated libraries.

    Raises Unavailable when there is no compiler or it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    current = {variant.file_name for variant in VARIANTS}
    for library in folder.glob("kernels-*.so"):
        if library.name not in current:
            library.unlink()
    made = []
    for variant in _variants_of(find_compiler()):
        library = folder / variant.file_name
        compile_kernels([variant.flag], library)
        library.chmod(0o755)
        made.append(library)
    return made


def _variants_of(compiler: str) -> list[Variant]:
    done = subprocess.run(
        [compiler, "-dumpmachine"], capture_output=True, text=True, timeout=60, check=False
    )
    machine = done.stdout.partition("-")[0].strip().replace("arm64", "aarch64")
    found = [variant for variant in VARIANTS if variant.machine == machine]
    if not found:
        raise Unavailable(f"no variants for {machine or 'the unknown target'} of {compiler}")
    return found


def main() -> None:
    """The program."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PREBUILT
    try:
        for library in prebuild(folder):
            sys.stdout.write(f"{library}\n")
    except Unavailable as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
