"""Makes the libraries of CANN that torch_npu links to: `python -m tests.npu.pretend.libraries DIR`.

Every library that the wheel needs and nothing installed provides is made, with every symbol that
is left undefined as a function that fails; those of runtime.c take their place. Nothing but the
wheel's ELF tables is read, so another version needs no change here.
"""

import ctypes
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.npu.pretend.elf import Elf

RUNTIME = Path(__file__).with_name("runtime.c")
_HOME = "libascendcl.so"  # holds all functions; every other library needs it
_FAILURE = 500000  # ACL_ERROR_INTERNAL_ERROR of acl/acl_base.h


def make(folder: Path) -> None:
    """Compile all libraries into `folder`; raises CalledProcessError when gcc refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    include = package("torch_npu") / "include/third_party/acl/inc"
    names, symbols = missing()
    generated = folder / "generated.c"
    generated.write_text("\n".join(_stubs(sorted(symbols - _own_functions(include)))) + "\n")
    shared = ["gcc", "-shared", "-fPIC", "-O1", "-w", "-I", str(include)]
    home = folder / _HOME
    sources = [str(generated), str(RUNTIME)]
    subprocess.run([*shared, f"-Wl,-soname,{_HOME}", "-o", str(home), *sources], check=True)
    empty = folder / "empty.c"
    empty.write_text("/* only the library's name is needed */\n")
    linked = ["-Wl,--no-as-needed", str(home), "-Wl,-rpath,$ORIGIN"]
    for name in names - {_HOME}:
        target = ["-o", str(folder / name), str(empty)]
        subprocess.run([*shared, f"-Wl,-soname,{name}", *target, *linked], check=True)


def missing() -> tuple[set[str], set[str]]:
    """Names of libraries, and symbols, that torch_npu needs and nothing installed provides."""
    npu, torch = package("torch_npu"), package("torch")
    known = {path.name: path for root in (npu, torch) for path in (root / "lib").glob("*.so*")}
    todo = [*npu.glob("_C*.so"), *(npu / "lib").glob("*.so")]
    names: set[str] = set()
    wanted: set[str] = set()
    provided: set[str] = set()
    seen: set[Path] = set()
    while todo:
        path = todo.pop().resolve()
        if path in seen:
            continue
        seen.add(path)
        elf = Elf.read(path)
        is_ours = npu.resolve() in path.parents
        provided |= elf.defined
        if is_ours:
            wanted |= elf.undefined
        for name in elf.needed:
            found = known.get(name) or _system_library(name)
            if found is not None:
                todo.append(found)
            elif is_ours:
                names.add(name)
    left = wanted - provided
    return names, {symbol for symbol in left if not hasattr(ctypes.pythonapi, symbol)}


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{name} is not installed for {sys.executable}")
    return Path(spec.submodule_search_locations[0])


def _system_library(name: str) -> Path | None:
    asked = ["gcc", f"-print-file-name={name}"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return Path(found) if found != name else None


def _own_functions(include: Path) -> set[str]:
    """The functions that runtime.c defines, against the wheel's own headers."""
    command = ["gcc", "-E", "-P", "-I", str(include), str(RUNTIME)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^[a-zA-Z][\w *]*[ *](\w+)\([^;{]*\)\s*\{", text, re.MULTILINE))


def _stubs(symbols: Sequence[str]) -> Iterator[str]:
    for number, symbol in enumerate(symbols):
        if re.match(r"_ZT[VIS]", symbol):  # a virtual table or type information: data
            yield f'char data_{number}[512] __asm__("{symbol}");'
        else:
            yield f'int stub_{number}(void) __asm__("{symbol}");'
            yield f"int stub_{number}(void) {{ return {_FAILURE}; }}"


if __name__ == "__main__":
    make(Path(sys.argv[1]))
