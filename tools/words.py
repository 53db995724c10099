"""Refuses words that were replaced: `python -m tools.words`, part of `make check`.

tools/words.txt has the list. A line is exempt if its file is (EXEMPT); nothing else is.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LIST = Path(__file__).with_suffix(".txt")
MADE = ("__pycache__", "build", "dist", "gen", "node_modules")  # folders of other tools' output
TEXT = (
    *("", ".cpp", ".h", ".lua", ".md", ".proto", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"),
)
EXEMPT = (
    "CHANGELOG.md",  # names the words of its time
    "tools/words.",
    "tests/unit/tools/test_words.py",
    "findings/",  # speaks of other software
    "recipes/",  # questions about pictures, which the model is trained on
    "tests/unit/recipes/",
    "glm4v/demo_model/",
    "docs/benchmarks/",  # what was measured, in the words of the command of its day
    "tests/unit/json_schema/suite/",
    "glm4v/process/renamed_settings.py",  # tells what settings of earlier releases are called now
    "tests/unit/process/test_settings.py",
)


class Found(NamedTuple):
    """A word that was replaced, where it stands, and the one to use."""

    path: str
    line: int
    word: str
    replacement: str


def read_list(text: str) -> list[tuple[re.Pattern[str], str]]:
    """The expressions of the list, each with its replacement."""
    rules = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return [(re.compile(rf"(?<!\w)(?:{word})(?!\w)"), replacement) for word, replacement in rules]


def search(path: str, text: str, rules: list[tuple[re.Pattern[str], str]]) -> Iterator[Found]:
    """Each line's first match of each rule."""
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern, replacement in rules:
            if found := pattern.search(line):
                yield Found(path, number, found[0], replacement)


def project_files(root: Path) -> Iterator[str]:
    """The project's text files that the list applies to."""
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if not name.startswith(".") and name not in MADE]
        for name in files:
            path = (Path(folder) / name).relative_to(root).as_posix()
            if Path(name).suffix in TEXT and not path.startswith(EXEMPT):
                yield path


def main() -> int:
    """Print what was found; exit code 1 if anything was."""
    root = LIST.parents[1]
    rules = read_list(LIST.read_text(encoding="utf-8"))
    count = 0
    for path in project_files(root):
        for found in search(path, (root / path).read_text(encoding="utf-8"), rules):
            count += 1
            sys.stdout.write(
                f"{found.path}:{found.line}: {found.word!r}, use {found.replacement!r}\n"
            )
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
