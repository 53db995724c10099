"""A contract for import-linter: what modules import from outside, an extra declares itself.

deptry knows whether pyproject.toml declares a package at all, not for whom. This contract follows
the imports of one part of the project and asks that the extras its users install name each package
that is imported on the way: what only comes along with another package may stay away one day.
"""

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output
from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


class DeclaredContract(Contract):
    """Options: `source_modules`, the `extras` they are installed with, `ignore_imports`."""

    type_name = "declared"

    # The base class puts a list of strings, or None, where a field stands.
    source_modules: Any = fields.ListField(subfield=fields.StringField())
    extras: Any = fields.ListField(subfield=fields.StringField(), required=False)
    ignore_imports: Any = fields.ListField(subfield=fields.StringField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Look at every import from outside that the source modules lead to."""
        for ignored in self.ignore_imports or ():
            importer, imported = ignored.split(" -> ")
            graph.remove_import(importer=importer, imported=imported)
        declared = declared_distributions(PROJECT, self.extras or ())
        providers = packages_distributions()
        undeclared = [
            f"{importer} imports {package}"
            for importer, package in sorted(outside_imports(graph, self.source_modules))
            # What is not installed is taken to be called as its module: torch_npu, torch-npu.
            if not declared & {normalized(name) for name in providers.get(package, [package])}
        ]
        return ContractCheck(kept=not undeclared, metadata={"undeclared": undeclared})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Say which import lacks a declaration."""
        where = f"the extras {', '.join(self.extras)}" if self.extras else "the dependencies"
        for undeclared in check.metadata["undeclared"]:
            output.print_error(f"{undeclared}, which {where} of pyproject.toml do not declare")


def declared_distributions(project: Path, extras: Sequence[str]) -> set[str]:
    """Normalized names that an installation with `extras` asks for itself."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    requirements = list(table["dependencies"])
    for extra in extras:
        requirements += table["optional-dependencies"][extra]
    return {normalized(Requirement(requirement).name) for requirement in requirements}


def outside_imports(graph: ImportGraph, sources: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(importer, top-level package), standard library aside, of all that `sources` lead to."""
    waiting = [
        module for module in graph.modules if any(_is_inside(module, source) for source in sources)
    ]
    seen = set(waiting)
    while waiting:
        importer = waiting.pop()
        for imported in graph.find_modules_directly_imported_by(importer):
            if graph.is_module_squashed(imported):
                package = imported.partition(".")[0]
                if package not in sys.stdlib_module_names:
                    yield importer, package
                continue
            for module in _with_packages(imported):
                if module not in seen:
                    seen.add(module)
                    waiting.append(module)


def normalized(name: str) -> str:
    """A distribution's name in the one spelling of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _with_packages(module: str) -> Iterator[str]:
    """The module, and the packages around it, which Python imports first."""
    while module:
        yield module
        module = module.rpartition(".")[0]
