"""Whether an environment has the oldest versions that a project allows."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools.floors import above_floor, requirements

PROJECT = """
[project]
name = "app"
dependencies = ["grpcio>=1"]
[project.optional-dependencies]
web = ["rich>=13.7", "app[web]"]
other = ["torch>=2"]
dev = ["app[web]", "pytest>=8; python_version < '3'", "ruff>=1"]
"""


def test_the_extras_inside_an_extra_are_looked_at_and_other_machines_are_not(
    tmp_path: Path,
) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(PROJECT)
    assert [one.name for one in requirements(project, "dev")] == ["grpcio", "ruff", "rich"]


@pytest.mark.parametrize(
    ("requirement", "installed", "said"),
    [
        ("rich>=13.7", "14.2.0", "rich>=13.7, but 14.2.0 is the oldest that can be installed"),
        ("build>=1.2", "1.2.1", "build>=1.2, but 1.2.1 is the oldest that can be installed"),
        ("types-protobuf", "3.17", "types-protobuf names no oldest version; 3.17 is installed"),
        ("rich>=14.3,<16", "14.3.0", None),
        ("grpcio-tools==1.75.1", "1.75.1", None),
        ("torch>=2.10,<2.14", "2.10.0+cpu", None),
    ],
)
def test_a_floor_that_is_not_the_version_installed_is_named(
    requirement: str, installed: str, said: str | None
) -> None:
    assert above_floor(Requirement(requirement), installed) == said
