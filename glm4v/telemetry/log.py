"""The log of a process, on standard error; a slow reader never blocks the process."""

import logging
import queue
import sys
import threading
from contextlib import suppress

_MAX_RECORDS = 10_000  # waiting to be written; further ones are dropped
_FLUSH_TIMEOUT_S = 1.0
_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
# What would begin another line, or command a terminal, is escaped as Python writes it.
_ONE_LINE = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


class _BackgroundHandler(logging.Handler):
    """Writes in its own thread, so that a full pipe or a stopped terminal blocks no caller."""

    def __init__(self) -> None:
        super().__init__()
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(_MAX_RECORDS)
        self._writer = logging.StreamHandler(sys.stderr)
        self._writer.setFormatter(logging.Formatter(_FORMAT))
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record, formatted with its arguments as they are now; its text is one line."""
        record.msg, record.args = record.getMessage().translate(_ONE_LINE), None
        with suppress(queue.Full):
            self._records.put_nowait(record)

    def close(self) -> None:
        """Write the queued records, for a second at most."""
        with suppress(queue.Full):
            self._records.put_nowait(None)
            self._thread.join(_FLUSH_TIMEOUT_S)
        super().close()

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            self._writer.handle(record)


def start_log(level: str) -> None:
    """Log records of at least this level."""
    logging.basicConfig(level=level.upper(), handlers=[_BackgroundHandler()])


def end_log(last_line: str = "") -> None:
    """Write the queued records, then a line without a prefix; takes two seconds at most.

    The process has to end with `os._exit`: a thread that still writes would keep it alive.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _BackgroundHandler):
            handler.close()
    if last_line:
        writer = threading.Thread(target=_write_line, args=(last_line,), daemon=True)
        writer.start()
        writer.join(_FLUSH_TIMEOUT_S)


def _write_line(text: str) -> None:
    with suppress(OSError, ValueError):  # the pipe may be closed
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
