"""Readers that wait for news of journals, and what a read for all of them may give to whom."""

import asyncio
from collections.abc import Callable

from glm4v.broker.entries import RawEntry, entry_order

Arrival = asyncio.Future[list[RawEntry]]


class Waiters:
    """Each waits behind the last entry it has. Knows nothing of Redis."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[bytes, Arrival]]] = {}
        self.registered = asyncio.Event()  # somebody waits

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def news(
        self, key: str, after: bytes, wake: Callable[[], object], wait_s: float
    ) -> list[RawEntry]:
        """Wait for entries of a journal behind `after`; `wake` is called once it is waited for.

        Ended by `hand_out`, by `fail`, and after `wait_s` with an empty list.
        """
        loop = asyncio.get_running_loop()
        arrival: Arrival = loop.create_future()
        timer = loop.call_later(wait_s, _expire, arrival)
        waiter = (after, arrival)
        self._waiting.setdefault(key, []).append(waiter)
        self.registered.set()
        try:
            wake()
            return await arrival
        finally:
            timer.cancel()
            self._forget(key, waiter)

    def positions(self) -> dict[str, bytes]:
        """For each journal that is waited for, behind which entry a read for all must begin."""
        if not self._waiting:
            self.registered.clear()
        behind = {
            key: [after for after, arrival in waiters if not arrival.done()]
            for key, waiters in self._waiting.items()
        }
        return {key: min(each, key=entry_order) for key, each in behind.items() if each}

    def hand_out(self, key: str, read_from: bytes, entries: list[RawEntry]) -> None:
        """Give what a read brought that began behind `read_from` to those it follows on from.

        A reader that began to wait while the read was under way may be further behind: what lies
        between is not in it, and the next read brings that.
        """
        for after, arrival in self._waiting.get(key, []):
            if arrival.done() or not follows_on(after, read_from):
                continue
            news = [entry for entry in entries if entry_order(entry[0]) > entry_order(after)]
            if news:
                arrival.set_result(news)

    def fail(
        self, key: str, error: Callable[[], Exception], *, behind: bytes | None = None
    ) -> None:
        """End the waiting for a journal, with `behind` only of those who have that entry."""
        for after, arrival in self._waiting.get(key, []):
            is_meant = behind is None or entry_order(after) >= entry_order(behind)
            if is_meant and not arrival.done():
                arrival.set_exception(error())

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """End all waiting."""
        for key in list(self._waiting):
            self.fail(key, error)

    def _forget(self, key: str, waiter: tuple[bytes, Arrival]) -> None:
        waiters = self._waiting[key]
        waiters.remove(waiter)
        if not waiters:
            del self._waiting[key]


def _expire(arrival: Arrival) -> None:
    if not arrival.done():
        arrival.set_result([])


def follows_on(after: bytes, read_from: bytes) -> bool:
    """Whether a read that began behind `read_from` has all that lies behind `after`."""
    return entry_order(after) >= entry_order(read_from)
