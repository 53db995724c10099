"""How far a worker is with reading its weights: 28 GB take minutes."""

import logging
import re
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

_EVERY_S = 5.0  # between two lines in the log
_GB = 10**9
_LINE = re.compile(rf" {re.escape(__name__)} (?P<progress>.+)$")


class Loading:
    """Counts the bytes of one process and logs them now and then.

    Args:
        total_bytes: What is to be read.
        clock: Seconds, as `time.monotonic`.
    """

    def __init__(self, total_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total_bytes
        self._done = 0
        self._clock = clock
        self._said_at = clock()

    def add(self, count: int) -> None:
        """Note bytes that were read."""
        self._done += count
        if self._clock() - self._said_at >= _EVERY_S:
            self._said_at = self._clock()
            done, total = self._done / _GB, self._total / _GB
            log.info("weights: %.1f of %.1f GB", min(done, total), total)


def progress_in(line: str) -> str | None:
    """What a line of a worker's log says about its progress; None for any other line."""
    found = _LINE.search(line)
    return found["progress"] if found else None
