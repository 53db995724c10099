"""Tries mutants inside one pytest session: once the tests are collected, a fork for each mutant.

A fork runs the tests that reach its mutant, and ends at the first that fails. What imports and
collection cost is paid once.
"""

import gc
import json
import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.mutation.mutants import Mutant, Reach

# Processor seconds, which a busy machine does not change: for a trial, and for its repetition.
_FACTORS = (10, 40)
_LEAST_S = 30
_WALL_S = 900.0  # for what waits and takes no processor time


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mutant."""

    verdict: str  # "caught", "survived"; "hung" ran out of its time twice, "died" of a signal
    by: str  # the test that failed, or what ended the process
    tests: int  # how many reach the mutant
    seconds: float


class Results:
    """A file of outcomes, one line each, by the mutants' keys; the last one of a key counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.outcomes: dict[str, Outcome] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                key = entry.pop("key")
                self.outcomes[key] = Outcome(**entry)

    def add(self, mutant: Mutant, outcome: Outcome) -> None:
        """Keep an outcome, in the file at once."""
        self.outcomes[mutant.key] = outcome
        entry = {"key": mutant.key} | {
            name: getattr(outcome, name) for name in ("verdict", "by", "tests", "seconds")
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class Trials:
    """The plugin of pytest: tries `mutants` in their order; `choose(name)` turns one on."""

    def __init__(
        self,
        mutants: Sequence[Mutant],
        reach: Reach,
        results: Results,
        choose: Callable[[str], None],
    ) -> None:
        self._mutants = mutants
        self._reach = reach
        self._results = results
        self._choose = choose
        self._failed: dict[str, list[str]] = {}  # by function: tests that failed, the last first
        self._progress = os.dup(2)  # pytest captures the descriptor itself
        self._report: int | None = None  # of a fork: where it names the test that failed

    @property
    def is_fork(self) -> bool:
        """Whether this process is a fork, which tried one mutant."""
        return self._report is not None

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Try all; None in a fork, so that pytest goes on with the fork's tests."""
        items = {item.nodeid: item for item in session.items}
        gc.freeze()  # or a fork's first collection would copy all memory
        unchanged = self._try(Mutant("", ""), list(items))
        if unchanged is None:
            return None
        if unchanged.verdict != "survived":
            pytest.exit(f"without a mutant: {unchanged.by} fails", returncode=1)
        for number, mutant in enumerate(self._mutants, start=1):
            failed = self._failed.setdefault(mutant.function, [])
            tests = self._reach.of(mutant, failed)
            session.items[:] = [items[test] for test in tests]
            outcome = self._try(mutant, tests)
            if outcome is None:
                return None
            if outcome.by in tests:
                failed.insert(0, outcome.by)
            self._results.add(mutant, outcome)
            line = f"{number}/{len(self._mutants)} {outcome.verdict:8} {outcome.seconds:6.1f} s"
            os.write(self._progress, f"{line} {mutant.name}\n".encode())
        session.items[:] = []
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """In a fork: name the test that failed."""
        if report.failed and self._report is not None:
            os.write(self._report, report.nodeid.encode())

    def _try(self, mutant: Mutant, tests: list[str]) -> Outcome | None:
        """An outcome; None in the fork."""
        expected = sum(self._reach.seconds.get(test, 0.0) for test in tests)
        begin = time.monotonic()
        for factor in _FACTORS:
            limit = math.ceil(factor * (expected + _LEAST_S / _FACTORS[0]))
            ended = self._fork(mutant, limit)
            if ended is None:
                return None
            code, by = ended
            if code != -signal.SIGXCPU:
                break
        seconds = round(time.monotonic() - begin, 1)
        if code == 0:
            return Outcome("survived", "", len(tests), seconds)
        if code == 1 and by:
            return Outcome("caught", by, len(tests), seconds)
        if code == -signal.SIGXCPU:
            return Outcome("hung", f"{limit} s", len(tests), seconds)
        return Outcome("died", f"exit code {code} {by}", len(tests), seconds)

    def _fork(self, mutant: Mutant, limit_s: int) -> tuple[int, str] | None:
        """Its exit code, and the test that failed; None in the fork."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._report = writer
            resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 5))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            self._choose(mutant.name)
            return None
        os.close(writer)
        child = os.pidfd_open(pid)
        if not select.select([child], [], [], _WALL_S)[0]:
            os.kill(pid, signal.SIGXCPU)
        _, status = os.waitpid(pid, 0)
        os.close(child)
        by = os.read(reader, 4096).decode() if select.select([reader], [], [], 0)[0] else ""
        os.close(reader)
        return os.waitstatus_to_exitcode(status), by
