"""Publishes output while later steps run, that of several short steps at once.

steps of 4 ms | 1 | 2 | 3 | 4 | 5 | 6 | 7 |         first and last tokens are published at once,
published         1         2,3,4     5,6,7         others after 10 ms (`interval_s`) or more
"""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Protocol

from lm_worker.engine.sequence import TokenOutput


class OutputSink(Protocol):
    """Receives the engine's output."""

    async def publish(self, outputs: Sequence[TokenOutput]) -> set[int]:
        """Take the tokens of one step or of several, in order.

        Returns sequences to remove, as their requests have ended.
        """
        ...


class Publications:
    """Gives output to a sink, one call at a time.

    A token waits for no longer than `interval_s` unless an earlier publication takes longer: it
    goes with those of later steps, since what a publication costs hardly depends on its length.
    With 0 each step is published by itself.
    """

    def __init__(self, sink: OutputSink, interval_s: float) -> None:
        self._sink = sink
        self._interval_s = interval_s
        self._waiting: list[TokenOutput] = []
        self._under_way: asyncio.Task[set[int]] | None = None
        self._began = -math.inf  # the last one
        self._timer: asyncio.TimerHandle | None = None  # while some wait
        self._ended: set[int] = set()  # sequences that the engine has not been told of

    @property
    def is_busy(self) -> bool:
        """Whether output waits, or its publication is under way."""
        return bool(self._waiting) or self._under_way is not None

    async def add(self, outputs: Sequence[TokenOutput]) -> set[int]:
        """Publish a step's output, now or soon; returns sequences to remove.

        Without output everything that waits is published. Waits for the publication under way if
        another one is due. Raises the errors of the sink.
        """
        self._waiting += outputs
        is_due = self._is_due(outputs)
        if is_due:
            self._stop_timer()
        if self._under_way is not None and (is_due or self._under_way.done()):
            self._ended |= await self._under_way
            self._under_way = None
        if self._waiting and is_due:
            self._begin()
        elif self._waiting and self._timer is None:
            self._wait()
        ended, self._ended = self._ended, set()
        return ended

    def cancel(self) -> None:
        """Give up what is under way, and what waits."""
        self._stop_timer()
        if self._under_way is not None:
            self._under_way.cancel()

    def _is_due(self, outputs: Sequence[TokenOutput]) -> bool:
        return (
            not outputs
            or time.perf_counter() - self._began >= self._interval_s
            or any(output.is_urgent or output.is_last for output in outputs)
        )

    def _begin(self) -> None:
        outputs, self._waiting = self._waiting, []
        self._began = time.perf_counter()
        self._under_way = asyncio.create_task(self._sink.publish(outputs))

    def _wait(self) -> None:
        """Publish what waits if no step ends in time."""
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._overdue)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _overdue(self) -> None:
        self._timer = None
        if self._under_way is None:
            self._begin()
        elif not self._under_way.done():
            self._wait()
        elif self._under_way.exception() is None:  # else `add` raises it
            self._ended |= self._under_way.result()
            self._begin()
