"""Prints what the project needs with some extras, one requirement a line: requirements.py EXTRA...

For images, where packages are a layer of their own, below the project's code.
"""

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def requirements(project: Path, extras: Sequence[str]) -> list[str]:
    """The dependencies and those of `extras`, each once. Raises KeyError for an unknown extra."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    optional = [table["optional-dependencies"][extra] for extra in extras]
    return sorted(set(table["dependencies"]).union(*optional))


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in requirements(PROJECT, sys.argv[1:]))
