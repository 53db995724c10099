"""Decodes images in processes of their own, so that slow ones leave room for the others.

```
         ┌ quick: `quick` processes, for as much processor time as the pixels explain
image ───┤
         └ slow: one process of low priority, for images that are large or took longer: `slow_s`
```

An image that takes longer is begun again in the slow lane, once. So files whose decoding costs far
more than their size says hold up each other, and ordinary images little.
"""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glm4v.errors import InvalidRequest, Overloaded
from glm4v.images import ImageLimits
from glm4v.images.decoder import DecoderSettings
from glm4v.images.inspection import read_header
from vision_worker.decoder_process import DecoderProcess, OutOfTime
from vision_worker.preprocess import normalised

Pixels = npt.NDArray[np.float32]  # [3, size, size], normalised

_SLOW_NICENESS = 10  # of 19
_KILL_AFTER_S = 0.1  # of decoding for nobody; a process that ends by itself needs no successor


@dataclass(frozen=True, slots=True)
class DecodingBounds:
    """What one image may take; the memory follows from the most pixels an image may have."""

    quick_pixels: int = 16_000_000  # more go to the slow lane at once
    quick_s: float = 0.2  # of processor time, and for each pixel, which takes half of it at most:
    quick_pixel_s: float = 60e-9
    slow_s: float = 20.0
    slow_waiting: int = 8  # in the slow lane, the one at hand included
    stopped_s: float = 60.0  # beside the processor time, for a machine that has none to give
    bytes_per_pixel: int = 20  # Pillow's copies of four bytes each, and a JPEG's coefficients
    base_bytes: int = 2**28  # the file, and the libraries' own


class TakesLong(Exception):
    """The image belongs in the slow lane."""


class Decoders:
    """The two lanes; every call ends in pixels, a refusal, or an error of the caller's own."""

    def __init__(
        self,
        limits: ImageLimits,
        size: int,
        *,
        quick: int,
        bounds: DecodingBounds | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self._limits = limits
        self._bounds = bounds = bounds or DecodingBounds()
        memory = bounds.base_bytes + bounds.bytes_per_pixel * limits.max_pixels
        settings = DecoderSettings(limits, size, memory)
        self.quick = quick
        self._quick = [DecoderProcess(settings, command) for _ in range(quick)]
        self._slow = DecoderProcess(settings, command, niceness=_SLOW_NICENESS)
        self._idle: asyncio.LifoQueue[DecoderProcess] = asyncio.LifoQueue()
        self._idle_slow: asyncio.LifoQueue[DecoderProcess] = asyncio.LifoQueue()
        for process in self._quick:
            self._idle.put_nowait(process)
        self._idle_slow.put_nowait(self._slow)
        self._threads = ThreadPoolExecutor(quick + 1, thread_name_prefix="decode")
        self._in_slow_lane = 0
        self._size = size

    def start(self) -> None:
        """Have the quick processes ready for the first images, and all threads: `Thread.start` may
        wait for ever once memory is out (seen with CPython 3.11.7).
        """
        together = threading.Barrier(self.quick + 1)
        for _ in range(self.quick + 1):
            self._threads.submit(together.wait)
        for process in self._quick:
            process.start()

    @property
    def progress(self) -> int:
        """Grows while an image is in the slow lane's process, which ends within its bounds."""
        return int(10 * self._slow.worked_s)

    @property
    def aside(self) -> int:
        """How many images are in the slow lane."""
        return self._in_slow_lane

    async def quickly(self, data: bytes) -> Pixels:
        """The file as the tower sees it; raises TakesLong, InvalidRequest, Overloaded."""
        header = read_header(data, self._limits)
        pixels, bounds = header.width * header.height, self._bounds
        if pixels > bounds.quick_pixels:
            raise TakesLong
        try:
            processor_s = bounds.quick_s + bounds.quick_pixel_s * pixels
            return await self._decode(self._idle, data, processor_s)
        except OutOfTime as error:
            raise TakesLong from error

    async def slowly(self, data: bytes) -> Pixels:
        """The same in the slow lane; raises InvalidRequest, Overloaded."""
        if self._in_slow_lane >= self._bounds.slow_waiting:
            raise Overloaded(
                f"{self._in_slow_lane} images that take long to decode are waiting; "
                "send this one scaled down, or try again later"
            )
        self._in_slow_lane += 1
        try:
            return await self._decode(self._idle_slow, data, self._bounds.slow_s)
        except OutOfTime as error:
            raise InvalidRequest(
                f"the image ({len(data)} bytes) takes more than {self._bounds.slow_s:g} s to "
                "decode; send it scaled down or written anew"
            ) from error
        finally:
            self._in_slow_lane -= 1

    async def _decode(
        self, idle: "asyncio.LifoQueue[DecoderProcess]", data: bytes, processor_s: float
    ) -> Pixels:
        process = await idle.get()
        loop = asyncio.get_running_loop()

        def done(_: "Future[Pixels]") -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(idle.put_nowait, process)

        def pixels() -> Pixels:
            within_s = processor_s + self._bounds.stopped_s
            return normalised(process.decode(data, processor_s, within_s), self._size)

        try:
            decoding = self._threads.submit(pixels)
        except BaseException:
            idle.put_nowait(process)
            raise
        decoding.add_done_callback(done)
        try:
            return await asyncio.wrap_future(decoding)
        except asyncio.CancelledError:
            if process.busy_s > _KILL_AFTER_S:
                process.kill()
            raise

    def close(self) -> None:
        """End all processes; images at hand in the quick lane are decoded before."""
        self._slow.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in (*self._quick, self._slow):
            process.end()
