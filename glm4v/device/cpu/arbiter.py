"""Arbitrates cores between vision and language workers of one machine.

Prefills go first. Vision encoding and language prefill compete for the same cores. Without
arbitration, ten requests with images would all be encoded before the first one is prefilled, and
every first token would be late. So before it starts an image, a vision worker waits until no
language worker is prefilling. Language workers hold a shared `flock` on a file while they have
prefills, which the kernel releases when a process dies. A vision worker waits at most twice the
previous image's time, so images get a third of the cores under any number of prompts, and a stopped
language worker delays nobody for long.

Then images go before steps of decodes alone, which cost nearly as much with one sequence more. A
vision worker writes the time of each layer into the file. A language worker that finds a recent one
waits (how long: `lm_worker/engine/engine.py`). A vision worker that was killed or stopped writes
none, so it delays nobody for longer than a second.
"""

import fcntl
import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from glm4v.device.arbiter import Arbiter
from glm4v.errors import ConfigurationError

_POLL_S = 0.005
_NOTICE_S = 0.04  # from the end of an image until its prefill is announced
_MAX_WAIT_S = 2.0
_STALLED_S = 1.0  # an image that has had no further layer for so long holds up nobody
_TIME = struct.Struct("d")  # monotonic, the same in all processes of a machine
_MAX_WAIT_SHARE = 2.0  # of the previous image's time


class Clock(Protocol):
    """The functions used of Python's `time`."""

    def monotonic(self) -> float:
        """Seconds."""

    def sleep(self, seconds: float, /) -> None:
        """Return after that time."""


class CpuArbiter(Arbiter):
    """`path` is a file that all workers on the same cores open.

    Raises ConfigurationError if it cannot be opened.
    """

    def __init__(self, path: Path, clock: Clock = time) -> None:
        self._clock = clock
        self._began, self._ended = 0.0, _MAX_WAIT_S  # of the previous image
        self._is_held = False
        try:  # stays open as long as the process lives
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"GLM4V_CPU_ARBITER: {path}: {error.strerror}") from None

    def set_prefilling(self, is_prefilling: bool) -> None:
        """Take or release the shared lock."""
        if is_prefilling == self._is_held:
            return
        if is_prefilling:
            self._is_held = self._lock(fcntl.LOCK_SH)
        else:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._is_held = False

    def wait_for_prefills(self) -> None:
        """Wait until nobody holds the lock, at most twice the previous image's time.

        From then on an image is being encoded.
        """
        longest_s = min(_MAX_WAIT_S, _MAX_WAIT_SHARE * (self._ended - self._began))
        until = self._clock.monotonic() + longest_s
        notice_s = min(until, self._ended + _NOTICE_S) - self._clock.monotonic()
        self._clock.sleep(max(0.0, notice_s))
        while not (is_free := self._lock(fcntl.LOCK_EX)) and self._clock.monotonic() < until:
            self._clock.sleep(_POLL_S)
        if is_free:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._began = self._clock.monotonic()
        self._write(self._began)

    def layer_done(self) -> None:
        """Write the time into the file."""
        self._write(self._clock.monotonic())

    def encode_done(self) -> None:
        """Remember when the image ended; none is being encoded."""
        self._ended = self._clock.monotonic()
        self._write(0.0)

    @property
    def is_encoding(self) -> bool:
        """Whether a layer of an image was computed within the last second."""
        written = os.pread(self._file, _TIME.size, 0)
        if len(written) < _TIME.size:  # no image yet
            return False
        (layer_at,) = _TIME.unpack(written)
        # Negative after a restart of the machine, if an image was cut off before it.
        return bool(0.0 <= self._clock.monotonic() - layer_at < _STALLED_S)

    def _write(self, time_s: float) -> None:
        with suppress(OSError):  # a full disk: images only lose their priority
            os.pwrite(self._file, _TIME.pack(time_s), 0)

    def _lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
