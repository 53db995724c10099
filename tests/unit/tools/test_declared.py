"""The contract on what an extra declares, on a small graph of imports."""

from pathlib import Path
from typing import Any

import pytest
from grimp import ImportGraph

from tools import declared
from tools.declared import DeclaredContract

PROJECT = """
[project]
dependencies = ["grpcio>=1"]
[project.optional-dependencies]
web = ["PyYAML>=6", "redis[hiredis]; python_version >= '3'"]
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(PROJECT)
    monkeypatch.setattr(declared, "PROJECT", path)
    providers = {"yaml": ["PyYAML"], "redis": ["redis"], "grpc": ["grpcio"], "six": ["six"]}
    monkeypatch.setattr(declared, "packages_distributions", lambda: providers)


def undeclared(*imports: tuple[str, str], **options: Any) -> list[str]:
    graph = ImportGraph()
    for module in ("app", "app.web", "app.part", "app.part.deep", "other"):
        graph.add_module(module)
    for outside in ("yaml", "redis", "grpc", "six", "absent", "json"):
        graph.add_module(outside, is_squashed=True)
    for importer, imported in imports:
        graph.add_import(importer=importer, imported=imported)
    contract = DeclaredContract("name", {}, {"source_modules": ["app.web"], **options})
    check = contract.check(graph, verbose=False)
    assert check.kept == (not check.metadata["undeclared"])
    return list(check.metadata["undeclared"])


def test_the_standard_library_dependencies_and_extras_are_declared() -> None:
    imports = [("app.web", name) for name in ("json", "grpc", "yaml", "redis")]
    assert undeclared(*imports, extras=["web"]) == []
    assert undeclared(*imports) == ["app.web imports redis", "app.web imports yaml"]


def test_imports_are_followed_through_the_project_and_its_packages() -> None:
    leads = ("app.web", "app.part.deep")
    assert undeclared(leads, ("app.part.deep", "six")) == ["app.part.deep imports six"]
    assert undeclared(leads, ("app.part", "absent")) == ["app.part imports absent"]
    assert undeclared(leads, ("other", "six")) == []


def test_an_import_may_be_left_out() -> None:
    imports = [("app.web", "app.part"), ("app.part", "six")]
    assert undeclared(*imports, ignore_imports=["app.web -> app.part"]) == []


def test_the_projects_own_extras_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Path(declared.__file__).resolve().parents[1] / "pyproject.toml"
    assert declared.declared_distributions(ours, []) == {"grpcio", "protobuf"}
    worker = declared.declared_distributions(ours, ["worker"])
    assert {"torch", "grpcio-reflection", "pydantic", "redis"} <= worker
