"""The output of a long-running command, which never blocks on its reader."""

import contextlib
import os
import queue
import select
import threading
import time
from typing import TextIO

_MAX_LINES = 10_000  # waiting to be written; more are dropped and counted
_REDRAW_S = 1.0
_COLUMNS = 80  # if the terminal does not tell
_CLOSE_S = 1.0  # to write the remaining lines
_ERASE = "\r\x1b[K"


class Screen:
    """Lines, and on a terminal a status line below them.

    A thread writes them, so that a full pipe, a terminal after Ctrl-S or a reader that disappeared
    blocks nothing else. Lines for a closed stream are dropped.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out, self._err = out, err
        self._is_terminal = err.isatty()
        self._lines: queue.Queue[tuple[TextIO, str] | None] = queue.Queue(_MAX_LINES)
        self._dropped = 0
        self._status: str | None = None
        self._since = 0.0
        self._is_drawn = False  # the status line is on the terminal
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)
        self._thread.start()

    def line(self, text: str) -> None:
        """A line on standard error."""
        self._put(self._err, text)

    def result(self, text: str) -> None:
        """A line on standard output."""
        self._put(self._out, text)

    def status(self, text: str | None) -> None:
        """Set the status line, which also shows the seconds since it appeared; None removes it."""
        if self._status is None:
            self._since = time.monotonic()
        self._status = text

    def close(self) -> None:
        """Write the remaining lines, for at most a second."""
        self._status = None
        self._is_closing = True
        with contextlib.suppress(queue.Full):  # the thread ends once all lines are written
            self._lines.put_nowait(None)
            self._thread.join(_CLOSE_S)

    def _put(self, stream: TextIO, text: str) -> None:
        try:
            self._lines.put_nowait((stream, text))
        except queue.Full:
            self._dropped += 1

    def _run(self) -> None:
        while True:
            try:
                item = self._lines.get(timeout=_REDRAW_S)
            except queue.Empty:
                self._draw()
                continue
            self._erase()
            if item is None:
                return
            stream, text = item
            _write(stream, text + "\n")
            if self._dropped:
                count, self._dropped = self._dropped, 0
                _write(self._err, f"({count} lines were dropped because the output was not read)\n")
            if self._lines.empty():
                if self._is_closing:
                    return
                self._draw()

    def _draw(self) -> None:
        status = self._status
        if self._is_terminal and status is not None:
            minutes, seconds = divmod(int(time.monotonic() - self._since), 60)
            text = f"{status} ({minutes}:{seconds:02})"
            columns = _columns(self._err)
            text = text[: columns - 1]  # a wrapped line could not be erased
            _write(self._err, _ERASE + text)
            self._is_drawn = True

    def _erase(self) -> None:
        if self._is_drawn:
            _write(self._err, _ERASE)
            self._is_drawn = False


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _COLUMNS
    except OSError:  # the terminal was closed
        return _COLUMNS


def _write(stream: TextIO, text: str) -> None:
    """Write without the stream's buffer, whose lock would block the interpreter's exit."""
    data = text.encode(stream.encoding, "replace")
    try:
        handle = stream.fileno()
    except ValueError:  # closed with lines left
        return
    try:
        while data:
            try:
                data = data[os.write(handle, data) :]
            except BlockingIOError:  # another process made the terminal non-blocking
                select.select([], [handle], [])
    except OSError:  # the reader or the terminal is gone
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, handle)  # for the interpreter's own buffers
        os.close(nowhere)
