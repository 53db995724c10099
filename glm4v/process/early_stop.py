"""Stop signals before a process has anything to hand back: it ends at once."""

import logging
import os
import signal
import threading
from types import FrameType, TracebackType

from glm4v.process.stop_signals import stop_signals
from glm4v.telemetry.log import end_log

log = logging.getLogger(__name__)


class EarlyStop:
    """`with EarlyStop():` a stop signal ends the process with exit code 0, as after a drain.

    Also while the main thread is in a call that takes minutes, such as reading a large matrix: what
    handles a signal in Python would wait for it. To be entered in the main thread.
    """

    def __enter__(self) -> None:
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        # The interpreter writes to the pipe from within the signal; only of signals with a handler.
        self._handlers = {number: signal.signal(number, _do_nothing) for number in stop_signals()}
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=[reader], name="stop", daemon=True).start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._writer)

    def _watch(self, reader: int) -> None:
        while numbers := os.read(reader, 1):
            if numbers[0] in self._handlers:
                log.info("stopped")
                end_log()
                os._exit(0)
        os.close(reader)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Have the interpreter note the signal."""
