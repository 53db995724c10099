"""Decodes images in separate processes, so that slow ones do not hold up the others.

```
         ┌ quick lane: `quick` processes, CPU time in proportion to the pixels
image ───┤
         └ slow lane: one process of low priority, for images that are large or took longer
```

An image that exceeds its CPU time starts again in the slow lane, once. So files that are far more
expensive than their size suggests hold up each other, and ordinary images little.
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
from vision_worker.decoder_process import DecoderProcess, OutOfCpuTime
from vision_worker.preprocess import normalised

Pixels = npt.NDArray[np.float32]  # [3, size, size], normalised

_SLOW_NICENESS = 10  # of 19
_KILL_AFTER_S = 0.1  # of decoding a cancelled image; killing costs a new process


@dataclass(frozen=True, slots=True)
class DecodingBounds:
    """Limits of one image; the memory limit follows from the largest number of pixels."""

    quick_pixels: int = 16_000_000  # larger images go to the slow lane at once
    quick_s: float = 0.2  # CPU time, plus for each pixel (ordinary files take half of it):
    quick_pixel_s: float = 60e-9
    slow_s: float = 20.0
    slow_waiting: int = 8  # images in the slow lane, the current one included
    stopped_s: float = 60.0  # wall time added to the CPU time, for a busy machine
    bytes_per_pixel: int = 20  # Pillow's copies of 4 bytes each, and a JPEG's coefficients
    base_bytes: int = 2**28  # the file and the libraries


class NeedsSlowLane(Exception):
    """The image has to be decoded in the slow lane."""


class Decoders:
    """The two lanes of decoder processes."""

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
        """Start the quick processes and all threads.

        Threads start now because `Thread.start` may wait for ever once memory is out (seen with
        CPython 3.11.7).
        """
        together = threading.Barrier(self.quick + 1)
        for _ in range(self.quick + 1):
            self._threads.submit(together.wait)
        for process in self._quick:
            process.start()

    @property
    def progress(self) -> int:
        """Grows while the slow lane decodes an image, which is bounded in time."""
        return int(10 * self._slow.worked_s)

    @property
    def slow_images(self) -> int:
        """Images in the slow lane."""
        return self._in_slow_lane

    async def decode_quick(self, data: bytes) -> Pixels:
        """Normalised pixels of an image file; raises NeedsSlowLane, InvalidRequest, Overloaded."""
        header = read_header(data, self._limits)
        pixels, bounds = header.width * header.height, self._bounds
        if pixels > bounds.quick_pixels:
            raise NeedsSlowLane
        try:
            cpu_s = bounds.quick_s + bounds.quick_pixel_s * pixels
            return await self._decode(self._idle, data, cpu_s)
        except OutOfCpuTime as error:
            raise NeedsSlowLane from error

    async def decode_slow(self, data: bytes) -> Pixels:
        """The same in the slow lane; raises InvalidRequest, Overloaded."""
        if self._in_slow_lane >= self._bounds.slow_waiting:
            raise Overloaded(
                f"{self._in_slow_lane} images that are slow to decode are waiting; "
                "send this one scaled down, or try again later"
            )
        self._in_slow_lane += 1
        try:
            return await self._decode(self._idle_slow, data, self._bounds.slow_s)
        except OutOfCpuTime as error:
            raise InvalidRequest(
                f"the image ({len(data)} bytes) takes more than {self._bounds.slow_s:g} s to "
                "decode; send it scaled down or written anew"
            ) from error
        finally:
            self._in_slow_lane -= 1

    async def _decode(
        self, idle: "asyncio.LifoQueue[DecoderProcess]", data: bytes, cpu_s: float
    ) -> Pixels:
        process = await idle.get()
        loop = asyncio.get_running_loop()

        def done(_: "Future[Pixels]") -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(idle.put_nowait, process)

        def pixels() -> Pixels:
            within_s = cpu_s + self._bounds.stopped_s
            return normalised(process.decode(data, cpu_s, within_s), self._size)

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
        """End all processes, after the current images of the quick lane."""
        self._slow.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in (*self._quick, self._slow):
            process.end()
