"""The mutants that mutmut wrote into a folder, and the tests that reach them."""

import ast
import difflib
import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SLOW_S = 10.0  # a test that takes longer is left out where quicker ones reach the function
_NUMBER = re.compile(r"__mutmut_(orig|\d+)")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one function."""

    name: str  # "glm4v.device.npu.step.x_make_step__mutmut_20"
    change: str  # the lines that are taken out and put in, as a diff

    @property
    def function(self) -> str:
        """The function as mutmut's statistics name it."""
        return self.name.partition("__mutmut_")[0]

    @property
    def file(self) -> str:
        """The module's own name: "step"."""
        return self.function.split(".")[-2]

    @property
    def key(self) -> str:
        """What stays the same when other functions or the mutants' numbers change."""
        return f"{self.function}\n{self.change}"


@dataclass(frozen=True, slots=True)
class Reach:
    """Which tests call a function, and how long each takes, as mutmut measured."""

    tests: dict[str, list[str]]
    seconds: dict[str, float]

    @classmethod
    def read(cls, folder: Path) -> "Reach":
        """The statistics under `folder`/mutants."""
        text = (folder / "mutants" / "mutmut-stats.json").read_text(encoding="utf-8")
        stats = json.loads(text)
        return cls(stats["tests_by_mangled_function_name"], stats["duration_by_test"])

    def of(self, mutant: Mutant, first: Iterable[str] = ()) -> list[str]:
        """The tests that reach a mutant: those of `first` among them, then the quickest first."""
        reaching = self.tests.get(mutant.function, [])
        quick = [test for test in reaching if self.seconds[test] <= _SLOW_S]
        by_time = sorted(quick or reaching, key=lambda test: (self.seconds[test], test))
        return list(dict.fromkeys([*(test for test in first if test in by_time), *by_time]))


def read_mutants(folder: Path, reach: Reach) -> list[Mutant]:
    """All mutants under `folder`/mutants that a test reaches."""
    found = []
    for meta in sorted((folder / "mutants").rglob("*.py.meta")):
        names = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        texts = _functions(meta.with_suffix("").read_text(encoding="utf-8"))
        for name in names:
            short = name.rpartition(".")[2]
            original = texts[short.partition("__mutmut_")[0] + "__mutmut_orig"]
            found.append(Mutant(name, _difference(original, texts[short])))
    return [each for each in found if reach.of(each)]


def in_random_order(mutants: Iterable[Mutant], seed: int) -> list[Mutant]:
    """An order of which every beginning has about the same share of each file's mutants.

    The first of each file come first, so that no file of a sample is without one.
    """
    draw = random.Random(seed)
    files: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        files.setdefault(mutant.file, []).append(mutant)
    places = []
    for _, group in sorted(files.items()):
        shuffled, offset = draw.sample(group, len(group)), draw.random()
        places += [
            ((at + offset) / len(group) * (at > 0), each) for at, each in enumerate(shuffled)
        ]
    return [each for _, each in sorted(places, key=lambda place: place[0])]


def _functions(source: str) -> dict[str, list[str]]:
    """The lines of every function of a module, by its name."""
    lines = source.splitlines()
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    return {node.name: lines[node.lineno - 1 : node.end_lineno] for node in nodes}


def _difference(original: list[str], mutated: list[str]) -> str:
    """What changes and where, lines counted from the function's own first."""
    before, after = ([_NUMBER.sub("", line) for line in lines] for lines in (original, mutated))
    return "\n".join(list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:])
