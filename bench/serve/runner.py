"""Sends a load: at planned times (open loop), or as fast as callers get answers (closed loop)."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator

from bench.serve.doors import Door, RequestError
from bench.serve.images import ImageFiles
from bench.serve.measurement import FrameTimer, Measurement
from bench.serve.request import LoadRequest


class Runner:
    """One load on one door.

    Args:
        images: The image files of the load.
        on_end: Told of each request that has ended.
        most_in_flight: Further requests wait, and their latency includes that.
        timeout_s: Of a request, from when it is sent.

    Attributes:
        measurements: Of all requests that have ended so far.
        in_flight: Requests that have been sent and have not ended.
    """

    def __init__(
        self,
        door: Door,
        images: ImageFiles,
        on_end: Callable[[Measurement], None],
        *,
        most_in_flight: int,
        timeout_s: float,
    ) -> None:
        self._door = door
        self._images = images
        self._on_end = on_end
        self._places = asyncio.Semaphore(most_in_flight)
        self._timeout_s = timeout_s
        self._began = 0.0
        self.measurements: list[Measurement] = []
        self.in_flight = 0

    async def open_loop(self, requests: Iterable[LoadRequest]) -> None:
        """Send each request when it arrives, whether others have ended or not."""
        self._began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for request in requests:
                await asyncio.sleep(request.at_s - self._now())
                group.create_task(self._measure(request, request.at_s))

    async def closed_loop(
        self, requests: Iterable[LoadRequest], callers: int, seconds: float | None = None
    ) -> None:
        """Let callers ask one request after the other, none after `seconds`."""
        self._began = time.perf_counter()
        left = iter(requests)
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(self._call(left, seconds))

    async def _call(self, left: Iterator[LoadRequest], seconds: float | None) -> None:
        for request in left:
            if request.image is not None:
                await self._images.file(request.image)  # before the caller asks
            if seconds is not None and self._now() >= seconds:
                return
            await self._measure(request, self._now())

    async def _measure(self, request: LoadRequest, planned_s: float) -> None:
        found = Measurement(request.number, request.image is not None, planned_s)
        image = None if request.image is None else await self._images.file(request.image)
        found.released_s = self._now()
        async with self._places:
            found.sent_s = self._now()
            self.in_flight += 1
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._door.send(request, image, FrameTimer(found, self._began))
            except RequestError as error:
                found.error, found.details = str(error), error.details
            except TimeoutError:
                found.error, found.details = "timeout", f"no end within {self._timeout_s:g} s"
        if not found.error and found.first_s is None:
            found.error, found.details = "no tokens", "the stream ended without a token"
        found.ended_s = self._now()
        self.in_flight -= 1
        self.measurements.append(found)
        self._on_end(found)

    def _now(self) -> float:
        return time.perf_counter() - self._began
