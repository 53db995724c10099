"""Mutants: how a sample is drawn and tried, and what is said of the others."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tools.mutation.mutants import Mutant, Reach, in_random_order, read_mutants
from tools.mutation.report import Estimate, Stratum, estimate, report
from tools.mutation.trials import Outcome, Results

MODULE = '''
def x_half__mutmut_orig(n: int) -> int:
    """Its half."""
    return n // 2

def x_half__mutmut_{first}(n: int) -> int:
    """Its half."""
    return n / 2

def x_half__mutmut_{second}(n: int) -> int:
    """Its half."""
    return n // 3

def x_unused__mutmut_orig():
    return 1

def x_unused__mutmut_1():
    return 2
'''


def made_by_mutmut(folder: Path, first: int = 1, second: int = 2) -> Reach:
    """A folder as mutmut leaves it, of one module `app.even`."""
    module = folder / "mutants" / "app" / "even.py"
    module.parent.mkdir(parents=True)
    module.write_text(MODULE.format(first=first, second=second))
    names = [f"app.even.x_half__mutmut_{first}", f"app.even.x_half__mutmut_{second}"]
    meta = {"exit_code_by_key": dict.fromkeys([*names, "app.even.x_unused__mutmut_1"])}
    module.with_suffix(".py.meta").write_text(json.dumps(meta))
    stats = {
        "tests_by_mangled_function_name": {"app.even.x_half": ["slow", "b", "a", "c"]},
        "duration_by_test": {"a": 0.2, "b": 0.1, "c": 0.3, "slow": 11.0},
    }
    (folder / "mutants" / "mutmut-stats.json").write_text(json.dumps(stats))
    return Reach.read(folder)


def test_mutants_are_those_that_tests_reach(tmp_path: Path) -> None:
    whole, third = read_mutants(tmp_path, made_by_mutmut(tmp_path))
    assert whole.name == "app.even.x_half__mutmut_1"
    assert (whole.file, whole.function) == ("even", "app.even.x_half")
    assert whole.change == "@@ -3 +3 @@\n-    return n // 2\n+    return n / 2"
    assert third.change.endswith("+    return n // 3")


def test_a_mutant_keeps_its_result_when_mutmut_numbers_it_anew(tmp_path: Path) -> None:
    before = read_mutants(tmp_path / "a", made_by_mutmut(tmp_path / "a"))
    after = read_mutants(tmp_path / "b", made_by_mutmut(tmp_path / "b", 7, 8))
    assert [each.key for each in before] == [each.key for each in after]
    assert before[0].name != after[0].name


def test_quick_tests_come_first_and_slow_ones_only_where_there_is_no_other(tmp_path: Path) -> None:
    reach = made_by_mutmut(tmp_path)
    mutant = read_mutants(tmp_path, reach)[0]
    assert reach.of(mutant) == ["b", "a", "c"]
    assert reach.of(mutant, ["c", "of another function"]) == ["c", "b", "a"]
    assert Reach({mutant.function: ["slow"]}, reach.seconds).of(mutant) == ["slow"]


def mutants_of(**files: int) -> list[Mutant]:
    return [
        Mutant(f"app.{file}.x_f__mutmut_{number}", str(number))
        for file, count in files.items()
        for number in range(count)
    ]


def test_every_beginning_of_the_order_has_its_share_of_each_file() -> None:
    mutants = mutants_of(large=300, middle=90, small=3)
    order = in_random_order(mutants, seed=5)
    assert sorted(each.name for each in order) == sorted(each.name for each in mutants)
    assert {each.file for each in order[:3]} == {"large", "middle", "small"}
    for size in (50, 131, 262):
        counts = Counter(each.file for each in order[:size])
        assert abs(counts["large"] - size * 300 / 393) < 3
        assert abs(counts["middle"] - size * 90 / 393) < 3


def test_a_seed_is_an_order() -> None:
    mutants = mutants_of(a=40, b=20)
    assert in_random_order(mutants, 1) == in_random_order(mutants, 1) != in_random_order(mutants, 2)


def test_the_interval_of_one_large_file_is_wilsons() -> None:
    found = estimate([Stratum("a", 10**9, 50, 45)])
    # Wilson (1927) for 45 of 50, as in Newcombe, Statistics in Medicine 17 (1998), method 3.
    assert found.share == 0.9
    assert found.low == pytest.approx(0.7864, abs=1e-4)
    assert found.high == pytest.approx(0.9565, abs=1e-4)


def test_files_count_by_their_mutants_and_what_is_tried_does_not_vary() -> None:
    found = estimate([Stratum("a", 900, 10, 9), Stratum("b", 100, 100, 50)])
    assert found.share == pytest.approx(0.9 * 0.9 + 0.1 * 0.5)
    assert estimate([Stratum("a", 20, 20, 15)]) == Estimate(0.75, 0.75, 0.75)
    assert estimate([Stratum("a", 20, 5, 5)]).low < 0.95


def test_nineteen_of_twenty_intervals_hold_the_true_share() -> None:
    draw = random.Random(3)
    files = {"a": [True] * 180 + [False] * 20, "b": [True] * 27 + [False] * 13, "c": [True] * 60}
    total = sum(map(len, files.values()))
    share = sum(map(sum, files.values())) / total
    held = 0
    for _ in range(1000):
        strata = []
        for name, outcomes in files.items():
            tried = draw.sample(outcomes, len(outcomes) * 2 // 5)
            strata.append(Stratum(name, len(outcomes), len(tried), sum(tried)))
        found = estimate(strata)
        held += found.low <= share <= found.high
    assert held >= 940


RUN = """
import os, sys
from pathlib import Path
import pytest
from tools.mutation import trials
from tools.mutation.mutants import Mutant, Reach

trials._FACTORS, trials._LEAST_S = (1, 1.5), 0.5
names = [f"app.even.x_half__mutmut_{each}" for each in sys.argv[1:]]
tests = [f"test_it.py::test_{each}" for each in ("quick", "long")]
reach = Reach({"app.even.x_half": tests}, {tests[0]: 0.0, tests[1]: 0.01})
results = trials.Results(Path("results.jsonl"))
plugin = trials.Trials(
    [Mutant(name, name) for name in names],
    reach,
    results,
    lambda name: os.environ.__setitem__("MUTANT", name.rpartition("_")[2]),
)
code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "test_it.py"], plugins=[plugin])
if plugin.is_fork:
    os._exit(code)
"""
TESTS = """
import os, signal

def test_long():
    assert os.environ["MUTANT"] != "long"

def test_never_chosen():
    assert os.environ["MUTANT"] == ""

def test_quick():
    assert os.environ["MUTANT"] != "both"
    while os.environ["MUTANT"] == "endless":
        pass
    if os.environ["MUTANT"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def try_mutants(folder: Path, *names: str, tests: str = TESTS) -> tuple[str, dict[str, Outcome]]:
    """What a session printed, and the outcomes."""
    (folder / "test_it.py").write_text(tests)
    (folder / "run.py").write_text(RUN)
    root = Path(__file__).parents[3]
    ended = subprocess.run(
        [sys.executable, "run.py", *names],
        cwd=folder,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = Results(folder / "results.jsonl").outcomes
    named = {key.rpartition("_")[2]: each for key, each in found.items()}
    return ended.stdout + ended.stderr, named


def test_a_mutant_is_caught_by_the_first_test_that_fails(tmp_path: Path) -> None:
    _, found = try_mutants(tmp_path, "none", "long", "both", "killed", "endless")
    assert {name: each.verdict for name, each in found.items()} == {
        "none": "survived",
        "long": "caught",
        "both": "caught",
        "killed": "died",
        "endless": "hung",
    }
    assert found["long"].by == "test_it.py::test_long"
    assert found["both"].by == "test_it.py::test_quick"
    assert found["endless"].seconds > 1.8  # it was tried again


def test_nothing_is_tried_with_tests_that_fail_without_a_mutant(tmp_path: Path) -> None:
    said, found = try_mutants(tmp_path, "none", tests=TESTS.replace('== ""', "!= ''"))
    assert "without a mutant: test_it.py::test_never_chosen fails" in said
    assert not found


def test_the_report_counts_and_shows_what_survived(tmp_path: Path) -> None:
    mutants = read_mutants(tmp_path, made_by_mutmut(tmp_path))
    results = Results(tmp_path / "results.jsonl")
    results.add(mutants[0], Outcome("survived", "", 3, 1.0))
    results.add(mutants[1], Outcome("survived", "", 3, 1.0))
    results.add(mutants[1], Outcome("caught", "a", 3, 0.1))  # tried again
    text = report(tmp_path, seed=1)
    assert "| `even` | 2 | 2 | 1 |" in text
    assert "estimate for all: 50.0 %, 95 % interval 50.0 to 50.0 %" in text
    assert "survived : app.even.x_half__mutmut_1\n@@ -3 +3 @@\n-    return n // 2" in text
    assert "mutmut_2" not in text


def test_mutants_that_were_chosen_are_shown_and_not_counted(tmp_path: Path) -> None:
    order = in_random_order(read_mutants(tmp_path, made_by_mutmut(tmp_path)), seed=1)
    results = Results(tmp_path / "results.jsonl")
    results.add(order[1], Outcome("survived", "", 3, 1.0))
    text = report(tmp_path, seed=1)
    assert "| `even` | 2 | 0 | 0 |" in text
    assert "estimate" not in text
    assert f"survived : {order[1].name}" in text
