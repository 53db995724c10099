"""On shared cores images wait for prefills for a bounded time, and decodes learn of images."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glm4v.device import DeviceOptions, open_device
from glm4v.device.arbiter import NoArbiter
from glm4v.device.cpu import arbiter as module
from glm4v.device.cpu.arbiter import CpuArbiter
from glm4v.errors import ConfigurationError

LONGEST = pytest.approx(module._MAX_WAIT_S, abs=module._POLL_S)
HOLD = """
import sys, time
from pathlib import Path
from glm4v.device.cpu.arbiter import CpuArbiter
arbiter = CpuArbiter(Path(sys.argv[1]))
arbiter.set_prefilling(True)
print("held", flush=True)
time.sleep(60)
"""


class Clock:
    """Time that passes in sleep() only."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "turns"


def waited(path: Path, clock: Clock) -> float:
    """Seconds a vision worker waits before its first image."""
    return seconds_of(CpuArbiter(path, clock), clock)


def seconds_of(arbiter: CpuArbiter, clock: Clock) -> float:
    start = clock.now
    arbiter.wait_for_prefills()
    return clock.now - start


def encoded(arbiter: CpuArbiter, clock: Clock, seconds: float) -> None:
    arbiter.wait_for_prefills()
    clock.sleep(seconds)
    arbiter.encode_done()


def test_an_image_waits_until_all_prefills_have_ended(path: Path, clock: Clock) -> None:
    languages = [CpuArbiter(path), CpuArbiter(path)]
    assert waited(path, clock) == 0
    for language in languages:
        language.set_prefilling(True)
        language.set_prefilling(True)
    assert waited(path, clock) == LONGEST
    languages[0].set_prefilling(False)
    assert waited(path, clock) == LONGEST
    languages[1].set_prefilling(False)
    assert waited(path, clock) == 0
    languages[0].set_prefilling(True)  # again, after an image looked
    assert waited(path, clock) == LONGEST


def test_an_image_waits_no_longer_than_twice_what_one_takes(path: Path, clock: Clock) -> None:
    language, vision = CpuArbiter(path), CpuArbiter(path, clock)
    encoded(vision, clock, 0.1)
    language.set_prefilling(True)  # and never ends: there is always another prompt
    assert seconds_of(vision, clock) == pytest.approx(0.2, abs=module._POLL_S)
    encoded(vision, clock, 1.5)
    assert seconds_of(vision, clock) == LONGEST


def test_an_image_gives_the_one_before_time_to_become_a_prefill(path: Path, clock: Clock) -> None:
    vision = CpuArbiter(path, clock)
    encoded(vision, clock, 0.05)
    assert seconds_of(vision, clock) == pytest.approx(module._NOTICE_S)
    encoded(vision, clock, 0.05)
    clock.sleep(1.0)  # no image came for a while
    assert seconds_of(vision, clock) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_stands_still_holds_up_nobody_for_long(
    path: Path, clock: Clock, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "held\n"
        os.kill(worker.pid, number)
        if number == signal.SIGKILL:
            worker.wait(10)
            assert waited(path, clock) == 0
        else:
            assert waited(path, clock) == LONGEST
            worker.kill()


def test_a_device_has_an_arbiter_if_it_is_shared_and_a_file_is_named(tmp_path: Path) -> None:
    device = open_device(DeviceOptions("cpu", "bfloat16"))
    assert isinstance(device.arbiter(tmp_path / "arbiter"), CpuArbiter)
    arbiter = device.arbiter(None)
    assert isinstance(arbiter, NoArbiter)
    arbiter.set_prefilling(True)
    arbiter.wait_for_prefills()
    arbiter.layer_done()
    assert not arbiter.is_encoding
    arbiter.encode_done()


def test_an_image_is_known_from_its_begin_to_its_end(path: Path, clock: Clock) -> None:
    language = CpuArbiter(path, clock)
    first, second = CpuArbiter(path, clock), CpuArbiter(path, clock)
    seen = [language.is_encoding]
    first.wait_for_prefills()
    seen.append(language.is_encoding)
    first.encode_done()
    seen.append(language.is_encoding)
    for vision in (first, second):
        vision.wait_for_prefills()
    second.encode_done()
    first.layer_done()
    seen.append(language.is_encoding)
    assert seen == [False, True, False, True]


def test_an_image_without_further_layers_is_given_up(path: Path, clock: Clock) -> None:
    language, vision = CpuArbiter(path, clock), CpuArbiter(path, clock)
    vision.wait_for_prefills()
    seen = []
    for _ in range(3):
        clock.sleep(0.9 * module._STALLED_S)
        seen.append(language.is_encoding)
        vision.layer_done()
    clock.sleep(module._STALLED_S)  # it was killed, or stands still
    assert [*seen, language.is_encoding] == [True, True, True, False]


def test_an_image_from_before_a_restart_of_the_machine_is_given_up(
    path: Path, clock: Clock
) -> None:
    CpuArbiter(path, clock).wait_for_prefills()  # its worker is killed with the machine
    clock.now = 5.0  # the clock begins anew
    language = CpuArbiter(path, clock)
    assert not language.is_encoding


def test_images_are_encoded_on_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language, vision = CpuArbiter(path), CpuArbiter(path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    vision.wait_for_prefills()
    vision.layer_done()
    vision.encode_done()
    assert not language.is_encoding


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"GLM4V_CPU_ARBITER: .*missing/turns: No such file"
    ):
        CpuArbiter(tmp_path / "missing" / "turns")
