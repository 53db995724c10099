"""What a command that runs for long writes, without ever waiting for who reads it."""

import contextlib
import os
import queue
import select
import threading
import time
from typing import TextIO

_MOST_LINES = 10_000  # that wait to be written; later ones are dropped and counted
_REDRAW_S = 1.0
_COLUMNS = 80  # where a terminal does not say
_CLOSE_S = 1.0  # for what is left to be written
_ERASE = "\r\x1b[K"


class Screen:
    """Lines, and on a terminal a last one that changes.

    A thread writes them: a pipe that is full, a terminal after Ctrl-S and a reader that has gone
    must hold up nobody. What a closed stream would have got is dropped.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out, self._err = out, err
        self._is_terminal = err.isatty()
        self._lines: queue.Queue[tuple[TextIO, str] | None] = queue.Queue(_MOST_LINES)
        self._dropped = 0
        self._status: str | None = None
        self._since = 0.0
        self._is_drawn = False  # the status stands on the terminal
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
        """The last line, with the seconds since there is one; None removes it."""
        if self._status is None:
            self._since = time.monotonic()
        self._status = text

    def close(self) -> None:
        """Write what is left, for a second at most."""
        self._status = None
        self._is_closing = True
        with contextlib.suppress(queue.Full):  # then it ends once all is read
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
                _write(self._err, f"({count} lines were dropped: they were not read in time)\n")
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
            text = text[: columns - 1]  # a longer one could not be erased
            _write(self._err, _ERASE + text)
            self._is_drawn = True

    def _erase(self) -> None:
        if self._is_drawn:
            _write(self._err, _ERASE)
            self._is_drawn = False


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _COLUMNS
    except OSError:  # the terminal has gone
        return _COLUMNS


def _write(stream: TextIO, text: str) -> None:
    """Past the stream's buffer, whose lock would keep the interpreter from ending."""
    data = text.encode(stream.encoding, "replace")
    try:
        handle = stream.fileno()
    except ValueError:  # closed while lines were left
        return
    try:
        while data:
            try:
                data = data[os.write(handle, data) :]
            except BlockingIOError:  # somebody has made the terminal non-blocking
                select.select([], [handle], [])
    except OSError:  # the reader or the terminal has gone
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, handle)  # what the interpreter still has for it does no harm either
        os.close(nowhere)
