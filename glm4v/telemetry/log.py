"""The log of a process, on standard error: a reader that does not read must hold up nobody."""

import logging
import queue
import sys
import threading
from contextlib import suppress

_MOST_RECORDS = 10_000  # that wait to be written; later ones are dropped
_END_S = 1.0  # for what is left to be written
_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class _BackgroundHandler(logging.Handler):
    """Writes in a thread of its own, so that a full pipe or a stopped terminal blocks no caller."""

    def __init__(self) -> None:
        super().__init__()
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(_MOST_RECORDS)
        self._writer = logging.StreamHandler(sys.stderr)
        self._writer.setFormatter(logging.Formatter(_FORMAT))
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Leave it to the thread, with what its arguments are now."""
        record.msg, record.args = record.getMessage(), None
        with suppress(queue.Full):
            self._records.put_nowait(record)

    def close(self) -> None:
        """Write what is left, for a second at most."""
        with suppress(queue.Full):
            self._records.put_nowait(None)
            self._thread.join(_END_S)
        super().close()

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            self._writer.handle(record)


def start_log(level: str) -> None:
    """Log from here on what is at least as severe."""
    logging.basicConfig(level=level.upper(), handlers=[_BackgroundHandler()])


def end_log(last_words: str = "") -> None:
    """Write what was logged, then a line as it is; returns after two seconds at the latest.

    The process has to end by `os._exit`: a thread that still writes would keep the interpreter.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _BackgroundHandler):
            handler.close()
    if last_words:
        writer = threading.Thread(target=_say, args=(last_words,), daemon=True)
        writer.start()
        writer.join(_END_S)


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # nobody may read it
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
