"""The thread in which a worker's device computes."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
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
        """The result of `function`; raises its exception. Once cancelled, it is not begun."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self.submit(partial(_fulfil, function, future, loop))
        return await future

    def submit(self, function: Callable[[], None]) -> None:
        """Queue `function`, which does not raise, behind the earlier calls."""
        self._calls.put(function)

    def end(self, within_s: float) -> bool:
        """Finish the queued calls; returns whether that took no longer than `within_s`."""
        self._calls.put(None)
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


# A step has one call, so that less is done here than by futures of `concurrent`.
def _fulfil(
    function: Callable[[], _T], future: "asyncio.Future[_T]", loop: asyncio.AbstractEventLoop
) -> None:
    if future.cancelled():
        return
    try:
        settle: Callable[[], None] = partial(future.set_result, function())
    except Exception as error:
        settle = partial(future.set_exception, error)
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_unless_cancelled, future, settle)


def _unless_cancelled(future: "asyncio.Future[_T]", settle: Callable[[], None]) -> None:
    if not future.done():
        settle()
