"""Tells a device that hangs from one that is slow."""

import time
from collections.abc import Callable


class Watchdog:
    """Watches a counter that grows while a device works.

    A layer of a large model can take seconds on a CPU that is shared, so a device counts as
    stalled only when nothing was computed for `timeout_s`.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._progress = -1
        self._since = clock()

    def is_stalled(self, progress: int, *, is_busy: bool) -> bool:
        """Whether there is work, and the counter has stood at `progress` for too long.

        To be called repeatedly: time counts from the first call that finds the counter unchanged.
        """
        if not is_busy:
            self._progress = -1
        elif progress != self._progress:
            self._progress = progress
            self._since = self._clock()
        else:
            return self._clock() - self._since >= self._timeout_s
        return False
