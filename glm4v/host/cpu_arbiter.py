"""Turns on cores that language and vision workers share: prefills go before the next image.

An image that is encoded while the one before waits for its prefill takes the cores from it, and
the first token of both comes late: with ten callers all images would be encoded first, then all
prefilled. So a vision worker lets prefills end before it begins its next image. Answers are
decoded beside both.

Language workers hold a shared lock on a file while they have prefills; a vision worker waits until
nobody does. The kernel lets go for a process that dies. The wait ends after twice the time that a
image takes, so that images have a third of the cores however many prompts there are, and a
language worker that stands still holds up nobody for long.
"""

import fcntl
import os
import time
from pathlib import Path
from typing import Protocol

from glm4v.errors import ConfigurationError

_LOOK_EVERY_S = 0.005
_NOTICE_S = 0.04  # from the end of one image until its prefill is known of
_LONGEST_S = 2.0
_PATIENCE = 2.0  # times what the image before took


class Clock(Protocol):
    """What is used of Python's `time`."""

    def monotonic(self) -> float:
        """Seconds."""

    def sleep(self, seconds: float, /) -> None:
        """Return after them."""


class CpuArbiter:
    """`path` is a file of all who share cores; without one nobody waits for anybody.

    Raises ConfigurationError when it cannot be opened.
    """

    def __init__(self, path: Path | None, clock: Clock = time) -> None:
        self._clock = clock
        self._file: int | None = None  # open as long as the process lives
        self._began, self._left = 0.0, _LONGEST_S  # of the image before: when
        self._is_held = False
        if path is not None:
            try:
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise ConfigurationError(f"GLM4V_CPU_ARBITER: {path}: {error.strerror}") from None

    def prefilling(self, is_so: bool) -> None:
        """Say whether there is something to prefill; called by language workers."""
        if self._file is None or is_so == self._is_held:
            return
        if not is_so:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._is_held = False
        else:
            self._is_held = self._lock(fcntl.LOCK_SH)

    def wait(self) -> None:
        """Return when nobody prefills, or when it has been long enough; called before an image."""
        if self._file is None:
            return
        longest_s = min(_LONGEST_S, _PATIENCE * (self._left - self._began))
        until = self._clock.monotonic() + longest_s
        notice_s = min(until, self._left + _NOTICE_S) - self._clock.monotonic()
        self._clock.sleep(max(0.0, notice_s))
        while not (is_free := self._lock(fcntl.LOCK_EX)) and self._clock.monotonic() < until:
            self._clock.sleep(_LOOK_EVERY_S)
        if is_free:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._began = self._clock.monotonic()

    def left(self) -> None:
        """Say that an image is encoded; called behind each."""
        self._left = self._clock.monotonic()

    def _lock(self, kind: int) -> bool:
        assert self._file is not None
        try:
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
