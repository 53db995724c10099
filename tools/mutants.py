"""What became of the mutants of tools/mutate-npu.sh: `python -m tools.mutants FOLDER...`.

Prints how many each file had and how many were caught, by the tests as any of the folders' chips,
and then the others.
"""

import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SURVIVED = 0
UNREACHED = (None, 5, 33)  # not tried, or in a function that no test of this chip calls


def outcomes(folder: Path) -> Iterator[tuple[str, str, int]]:
    """File, change, and the tests' exit code, of every mutant that was tried in a folder."""
    mutmut = importlib.import_module("mutmut.mutation.diff_apply")  # in that environment alone
    os.chdir(folder)  # where it looks
    for meta in sorted(Path("mutants").rglob("*.py.meta")):
        source = meta.relative_to("mutants").with_suffix("")
        for name, code in json.loads(meta.read_text())["exit_code_by_key"].items():
            if code not in UNREACHED:
                diff = mutmut.get_diff_for_mutant(name, path=source).splitlines()[2:]
                yield source.stem, "\n".join(line for line in diff if line[:1] in "+-@"), code


def main() -> None:
    """Print the tables of the folders together."""
    folders = [Path(each).resolve() for each in sys.argv[1:]]
    is_caught: dict[tuple[str, str], bool] = {}
    for folder in folders:
        for file, change, code in outcomes(folder):
            key = (file, change)
            is_caught[key] = is_caught.get(key, False) or code != SURVIVED
    tried, caught = Counter(file for file, _ in is_caught), Counter[str]()
    caught.update(file for (file, _), yes in is_caught.items() if yes)
    lines = ["| file | mutants | caught |", "|---|---|---|"]
    lines += [f"| `{file}` | {tried[file]} | {caught[file]} |" for file in sorted(tried)]
    share = 100 * caught.total() / max(1, tried.total())
    lines.append(f"| all | {tried.total()} | {caught.total()} ({share:.1f} %) |")
    for (file, change), yes in sorted(is_caught.items()):
        if not yes:
            lines += ["", f"{file}:", *change.splitlines()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
