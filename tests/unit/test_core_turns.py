"""Pictures wait for prefills where both share cores, and not for ever."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glm4v import core_turns
from glm4v.core_turns import CoreTurns
from glm4v.errors import ConfigurationError

HOLD = """
import sys, time
from pathlib import Path
from glm4v.core_turns import CoreTurns
turns = CoreTurns(Path(sys.argv[1]))
turns.prefilling(True)
print("held", flush=True)
time.sleep(60)
"""


def seconds_of(turns: CoreTurns) -> float:
    start = time.monotonic()
    turns.wait()
    return time.monotonic() - start


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(core_turns, "_LONGEST_S", 1.0)
    return tmp_path / "turns"


def test_a_picture_waits_until_all_prefills_have_ended(path: Path) -> None:
    languages = [CoreTurns(path), CoreTurns(path)]
    assert seconds_of(CoreTurns(path)) < 0.5
    for language in languages:
        language.prefilling(True)
        language.prefilling(True)
    assert seconds_of(CoreTurns(path)) >= core_turns._LONGEST_S
    languages[0].prefilling(False)
    assert seconds_of(CoreTurns(path)) >= core_turns._LONGEST_S
    languages[1].prefilling(False)
    assert seconds_of(CoreTurns(path)) < 0.5
    languages[0].prefilling(True)  # again, after a picture looked
    assert seconds_of(CoreTurns(path)) >= core_turns._LONGEST_S


def test_a_picture_waits_no_longer_than_twice_what_one_takes(path: Path) -> None:
    language, vision = CoreTurns(path), CoreTurns(path)
    vision.wait()
    time.sleep(0.1)
    vision.left()
    language.prefilling(True)  # and never ends: there is always another prompt
    assert 0.2 <= seconds_of(vision) < 0.8 * core_turns._LONGEST_S


def test_a_picture_gives_the_one_before_time_to_become_a_prefill(path: Path) -> None:
    vision = CoreTurns(path)
    vision.wait()
    time.sleep(0.05)
    vision.left()
    assert seconds_of(vision) >= 0.9 * core_turns._NOTICE_S


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_stands_still_holds_up_nobody_for_long(
    path: Path, number: signal.Signals
) -> None:
    vision = CoreTurns(path)
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "held\n"
        os.kill(worker.pid, number)
        if number == signal.SIGKILL:
            worker.wait(10)
            assert seconds_of(vision) < 0.5
        else:
            assert core_turns._LONGEST_S <= seconds_of(vision) < core_turns._LONGEST_S + 5
            worker.kill()


def test_without_a_file_nobody_waits() -> None:
    turns = CoreTurns(None)
    turns.prefilling(True)
    turns.left()
    assert seconds_of(turns) < 0.01


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"GLM4V_CORE_TURNS: .*missing/turns: No such file"
    ):
        CoreTurns(tmp_path / "missing" / "turns")
