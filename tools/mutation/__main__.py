"""`python -m tools.mutation [--seed N] [--sample N] [--again] [MUTANT...]`, in mutmut's folder.

Tries the mutants that have no result yet, in a random order, and only the first `--sample` of it;
an interrupted run goes on where it was. `--again` tries those that survived once more. Mutants that
are named, by patterns too, are tried whether they have a result or not, and no others.
"""

import argparse
import configparser
import importlib
import os
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tools.mutation.mutants import Mutant, Reach, in_random_order, read_mutants
from tools.mutation.trials import Results, Trials


def main() -> None:
    """Prepare, and let pytest try."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample", type=int, help="how many mutants; all unless it is given")
    parser.add_argument("--again", action="store_true", help="try the survivors once more")
    parser.add_argument("mutant", nargs="*")
    asked = parser.parse_args()
    folder = Path.cwd()
    results = Results(folder / "results.jsonl")
    reach = Reach.read(folder)
    wanted = _wanted(in_random_order(read_mutants(folder, reach), asked.seed), results, asked)
    if not wanted:
        return
    settings = configparser.ConfigParser()
    settings.read("setup.cfg")
    tests = settings["mutmut"]["pytest_add_cli_args_test_selection"].split()
    os.chdir("mutants")
    sys.path[0] = os.getcwd()  # the changed code before this tree's own
    os.environ["PY_IGNORE_IMPORTMISMATCH"] = "1"
    # What every mutant needs. Devices are opened in the forks, by code that may be changed.
    for name in ("torch", "torch_npu"):
        importlib.import_module(name)
    choose = importlib.import_module("mutmut.mutation.trampoline").set_mutant_under_test
    trials = Trials(wanted, reach, results, choose)
    options = ["--rootdir=.", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", "--no-summary"]
    # Its limit is the clock's, which a busy machine makes tests fail by.
    code = pytest.main([*options, "--timeout=0", *tests], plugins=[trials])
    if trials.is_fork:
        os._exit(code)
    sys.exit(0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code)


def _wanted(order: list[Mutant], results: Results, asked: argparse.Namespace) -> list[Mutant]:
    """What to try of all mutants."""
    if asked.mutant:
        return [each for each in order if any(fnmatch(each.name, like) for like in asked.mutant)]

    def is_due(mutant: Mutant) -> bool:
        outcome = results.outcomes.get(mutant.key)
        return outcome is None or (asked.again and outcome.verdict == "survived")

    return [each for each in order[: asked.sample] if is_due(each)]


if __name__ == "__main__":
    main()
