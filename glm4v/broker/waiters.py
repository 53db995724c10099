"""Readers that wait for new journal entries, and which entries of a shared read each may get."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

from glm4v.broker.entries import RawEntry, entry_order

Arrival = asyncio.Future[list[RawEntry]]


class Waiters:
    """Each waits for the entries after the last one it has. Independent of Redis."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[bytes, Arrival]]] = {}
        self.registered = asyncio.Event()  # at least one waits
        self._awaited: set[str] = set()  # journals whose next waiter `await_return` waits for
        self._returned = asyncio.Event()  # none is left of them

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def wait(
        self, key: str, after: bytes, wake: Callable[[], object], wait_s: float
    ) -> list[RawEntry]:
        """Wait for entries of a journal after `after`; calls `wake` once it is registered.

        Ended by `dispatch`, by `fail`, and after `wait_s` with an empty list.
        """
        loop = asyncio.get_running_loop()
        arrival: Arrival = loop.create_future()
        timer = loop.call_later(wait_s, _expire, arrival)
        waiter = (after, arrival)
        self._waiting.setdefault(key, []).append(waiter)
        self.registered.set()
        self._awaited.discard(key)
        if not self._awaited:
            self._returned.set()
        try:
            wake()
            return await arrival
        finally:
            timer.cancel()
            self._remove(key, waiter)

    def positions(self) -> dict[str, bytes]:
        """For each journal the entry after which a read for all its waiters must begin."""
        if not self._waiting:
            self.registered.clear()
        after = {
            key: [position for position, arrival in waiters if not arrival.done()]
            for key, waiters in self._waiting.items()
        }
        return {key: min(each, key=entry_order) for key, each in after.items() if each}

    async def await_return(self, keys: Collection[str], within_s: float) -> None:
        """Wait until someone waits for each of these journals, at most `within_s`.

        Their readers have just received entries: those that come back join the next read, and need
        not interrupt it.
        """
        self._awaited = {key for key in keys if key not in self._waiting}
        if not self._awaited:
            return
        self._returned.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._returned.wait()
        self._awaited.clear()

    def dispatch(self, key: str, read_from: bytes, entries: list[RawEntry]) -> None:
        """Give the entries of a read that began after `read_from` to the waiters that it covers.

        A reader that began to wait during the read may be further behind. The read lacks the
        entries between, so that reader gets the next read.
        """
        for after, arrival in self._waiting.get(key, []):
            if arrival.done() or not covers(read_from, after):
                continue
            news = [entry for entry in entries if entry_order(entry[0]) > entry_order(after)]
            if news:
                arrival.set_result(news)

    def fail(
        self, key: str, error: Callable[[], Exception], *, behind: bytes | None = None
    ) -> None:
        """Fail the waiters of a journal; with `behind` only those that have read that entry."""
        for after, arrival in self._waiting.get(key, []):
            is_meant = behind is None or entry_order(after) >= entry_order(behind)
            if is_meant and not arrival.done():
                arrival.set_exception(error())

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """Fail all waiters."""
        for key in list(self._waiting):
            self.fail(key, error)

    def _remove(self, key: str, waiter: tuple[bytes, Arrival]) -> None:
        waiters = self._waiting[key]
        waiters.remove(waiter)
        if not waiters:
            del self._waiting[key]


def _expire(arrival: Arrival) -> None:
    if not arrival.done():
        arrival.set_result([])


def covers(read_from: bytes, after: bytes) -> bool:
    """Whether a read that began after `read_from` has every entry after `after`."""
    return entry_order(after) >= entry_order(read_from)
