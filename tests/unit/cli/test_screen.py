"""Lines reach who reads them, and wait for nobody."""

import os
import pty
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from glm4v.cli import screen as screen_module
from glm4v.cli.screen import Screen
from tests.processes import wait_until


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The end to read from, and a stream into the other one."""
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w", encoding="utf-8") as stream:
        yield read_end, stream


def test_lines_come_in_order_and_are_all_there_after_close(
    pipe: tuple[int, TextIO], tmp_path: Path
) -> None:
    read_end, err = pipe
    with (tmp_path / "out").open("w", encoding="utf-8") as out:
        screen = Screen(out, err)
        screen.status("starting")  # no terminal: it is not shown
        for number in range(100):
            screen.line(f"行 {number}")
        screen.result("ready")
        screen.close()
    assert os.read(read_end, 2**16).decode() == "".join(f"行 {n}\n" for n in range(100))
    assert (tmp_path / "out").read_text() == "ready\n"
    os.close(read_end)


def test_a_reader_that_does_not_read_holds_up_nobody(
    pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen_module, "_MAX_LINES", 50)
    read_end, err = pipe
    screen = Screen(err, err)
    for _ in range(200):
        screen.line("x" * 10_000)  # far more than a pipe holds
    monkeypatch.setattr(screen_module, "_CLOSE_S", 0.1)
    screen.close()  # comes back all the same
    os.set_blocking(read_end, False)
    seen = b""

    def is_told() -> bool:
        nonlocal seen
        try:
            seen += os.read(read_end, 2**20)
        except BlockingIOError:
            return False
        return b"lines were dropped" in seen

    wait_until(is_told)
    os.close(read_end)
    wait_until(lambda: not is_writing())  # nothing is left for the stream that is closed next


def is_writing() -> bool:
    return any(thread.name == "screen" for thread in threading.enumerate())


def test_what_comes_for_a_closed_stream_is_dropped(pipe: tuple[int, TextIO]) -> None:
    read_end, err = pipe
    screen = Screen(err, err)
    err.close()
    screen.line("late")
    screen.close()
    assert not is_writing()
    assert os.read(read_end, 1) == b""
    os.close(read_end)


def test_a_reader_that_has_gone_ends_nothing(pipe: tuple[int, TextIO]) -> None:
    read_end, err = pipe
    os.close(read_end)
    screen = Screen(err, err)
    for _ in range(10):
        screen.line("lost")
    screen.result("lost too")
    screen.close()
    print("what the interpreter still has", file=err, flush=True)


def test_a_terminal_shows_the_status_below_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_module, "_REDRAW_S", 0.02)
    terminal, end = pty.openpty()
    with os.fdopen(end, "w", encoding="utf-8") as err:
        screen = Screen(err, err)
        screen.status("loading 1 of 2 GB")
        time.sleep(0.1)
        screen.line("a line")
        screen.close()
        seen = ""
        while "a line\r\n" not in seen:
            seen += os.read(terminal, 2**16).decode()
    assert "\r\x1b[Kloading 1 of 2 GB (0:00)" in seen
    assert "\r\x1b[Ka line\r\n" in seen
    os.close(terminal)
