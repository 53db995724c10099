"""Asks that this environment has the oldest version of each package that pyproject.toml allows.

Where another package needs a newer one, no test ever runs with the version that is declared: the
declaration is then a guess, whether the tests pass or not.
"""

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def requirements(project: Path, extra: str) -> Iterator[Requirement]:
    """What an installation with `extra` asks for on this machine, the extras inside it included."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    yield from _here(table["dependencies"])
    waiting, seen = [extra], {extra}
    while waiting:
        for requirement in _here(table["optional-dependencies"][waiting.pop()]):
            if requirement.name == table["name"]:
                waiting += requirement.extras - seen
                seen |= requirement.extras
            else:
                yield requirement


def _here(texts: list[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, texts):
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def above_floor(requirement: Requirement, installed: str) -> str | None:
    """What is wrong where the installed version is not the oldest that `requirement` allows."""
    floors = [Version(one.version) for one in requirement.specifier if one.operator in (">=", "==")]
    if not floors:
        return f"{requirement} names no oldest version; {installed} is installed"
    if Version(Version(installed).public) > floors[0]:
        return f"{requirement}, but {installed} is the oldest that can be installed"
    return None


def main() -> None:
    """Say what is wrong, and end with 1 if something is."""
    wrong = {
        above_floor(requirement, version(requirement.name))
        for requirement in requirements(PROJECT, "dev")
    } - {None}
    sys.stderr.writelines(f"floors: {text}\n" for text in sorted(map(str, wrong)))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
