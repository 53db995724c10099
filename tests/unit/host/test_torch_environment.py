"""Every program of the project prepares torch's environment before it imports torch."""

from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = (
    "glm4v",
    "gateway",
    "vision_worker",
    "lm_worker",
    "offline",
    "bench",
    "precision",
    "recipes",
)
COMMANDS = ("offline.generate", "bench.command")  # `glm4v` itself prepares it, other importers not
PREPARE = "glm4v.host.torch_environment"


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def programs() -> list[str]:
    """Modules that `python -m` runs, and those that add subcommands."""
    paths = (path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    guarded = (path for path in paths if '__name__ == "__main__"' in path.read_text())
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in guarded)
    return [*(name.removesuffix(".__main__") for name in names), *COMMANDS]


@pytest.mark.parametrize("program", programs())
def test_no_program_imports_torch_unprepared(program: str, graph: grimp.ImportGraph) -> None:
    """A package's `__init__` runs first: there `prepare_torch` is called, or nothing needs it."""
    parents = [program]
    while "." in parents[-1]:
        parents.append(parents[-1].rpartition(".")[0])
    known = [name for name in parents if name in graph.modules]
    assert program in known or f"{program}.__main__" in graph.modules
    is_prepared = any(graph.direct_import_exists(importer=name, imported=PREPARE) for name in known)
    reaches_torch = any(
        graph.find_shortest_chain(importer=name, imported="torch") for name in known
    )
    assert is_prepared or not reaches_torch
