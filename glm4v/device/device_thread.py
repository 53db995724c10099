"""The thread in which a worker's device computes."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

_T = TypeVar("_T")


class DeviceThread:
    """Runs calls one after another, so that the event loop is not blocked.

    A daemon thread: unlike an executor's, it does not keep the process alive when a device or a
    group hangs.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[], _T]) -> _T:
        """The result of `function`; raises its exception."""
        return await asyncio.wrap_future(self.submit(function))

    def submit(self, function: Callable[[], _T]) -> "Future[_T]":
        """Queue `function` behind the earlier calls."""
        future: Future[_T] = Future()
        self._calls.put(partial(_fulfil, future, function))
        return future

    def end(self, within_s: float) -> bool:
        """Finish the queued calls; returns whether that took no longer than `within_s`."""
        self._calls.put(None)
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _fulfil(future: "Future[_T]", function: Callable[[], _T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)
