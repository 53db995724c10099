"""Decoding in processes: bounds of time and memory, and nobody pays for another one's image."""

import asyncio
import io
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
from PIL import Image

from glm4v.errors import InvalidRequest, Overloaded
from glm4v.images import ImageLimits
from tests.unit.vision_worker import odd_decoder
from vision_worker.decoders import Decoders, DecodingBounds, NeedsSlowLane
from vision_worker.preprocess import pixel_values

SIZE = 24
LIMITS = ImageLimits(max_pixels=1_000_000)
HONEST = 30
BOUNDS = DecodingBounds(quick_s=0.3, slow_s=0.6, slow_waiting=3, stopped_s=20)
MARK = "decoders-of-this-file"  # CPython lets -X carry any word
COMMAND = (sys.executable, "-X", MARK, "-m", odd_decoder.__name__)

Make = Callable[..., Decoders]


def image(width: int, height: int = 9) -> bytes:
    """A PNG file of that width."""
    stream = io.BytesIO()
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes decoders, which end with the test, whatever happens in it."""
    with ExitStack() as stack:

        def made(bounds: DecodingBounds = BOUNDS, quick: int = 2) -> Decoders:
            decoders = Decoders(LIMITS, SIZE, quick=quick, bounds=bounds, command=COMMAND)
            return stack.enter_context(closing(decoders))

        yield made
    assert not children()


@pytest.fixture
def decoders(make: Make) -> Decoders:
    made = make()
    made.start()
    return made


async def decoded(decoders: Decoders, data: bytes) -> None:
    """The way an encoder takes, and the pixels it must end with."""
    try:
        pixels = await decoders.decode_quick(data)
    except NeedsSlowLane:
        pixels = await decoders.decode_slow(data)
    np.testing.assert_array_equal(pixels, pixel_values(data, SIZE, LIMITS))


def children() -> set[int]:
    """Decoders of this file's tests that have not ended, whichever thread started them.

    This process may have other children: servers that other tests share.
    """
    files = Path("/proc/self/task").glob("*/children")
    found = {int(number) for file in files for number in file.read_text().split()}
    return {number for number in found if MARK in arguments(number)}


def arguments(number: int) -> list[str]:
    """Of a process; none when it has ended, a zombie's included."""
    try:
        return Path(f"/proc/{number}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_pixels_are_those_of_this_process(decoders: Decoders) -> None:
    for width in (HONEST, HONEST + 1):
        await decoded(decoders, image(width))


async def test_a_refusal_comes_with_its_text(decoders: Decoders) -> None:
    with pytest.raises(InvalidRequest, match=r"PNG image .* is damaged or truncated"):
        await decoders.decode_quick(image(HONEST)[:100])


async def test_an_image_that_burns_time_is_refused_and_holds_up_no_other(
    decoders: Decoders,
) -> None:
    burning = [asyncio.create_task(decoded(decoders, image(odd_decoder.BURNS))) for _ in range(2)]
    await asyncio.sleep(0)
    honest = [asyncio.create_task(decoded(decoders, image(HONEST + each))) for each in range(6)]
    done, _ = await asyncio.wait([*burning, *honest], return_when=asyncio.FIRST_EXCEPTION)
    assert all(task in done for task in honest), "they end before the first refusal"
    await asyncio.gather(*honest)
    for refused in await asyncio.gather(*burning, return_exceptions=True):
        assert isinstance(refused, InvalidRequest)
        assert "takes more than 0.6 s to decode" in str(refused)
    await decoded(decoders, image(HONEST))


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        (odd_decoder.ALLOCATES, InvalidRequest, "takes more than 275 MiB of memory"),
        (odd_decoder.EXITS, InvalidRequest, "ends its decoder .status 7."),
        (odd_decoder.CRASHES, InvalidRequest, "ends its decoder .status -11."),
        (odd_decoder.IS_KILLED, Overloaded, "was killed; try again later"),
    ],
)
async def test_an_image_that_ends_its_decoder_is_refused_alone(
    decoders: Decoders, kind: int, error: type[Exception], text: str
) -> None:
    async def refused() -> None:
        with pytest.raises(error, match=text):
            await decoders.decode_quick(image(kind))

    others = [decoded(decoders, image(HONEST + each)) for each in range(4)]
    await asyncio.gather(refused(), *others, refused())
    await decoded(decoders, image(HONEST))


async def test_a_decoder_that_hangs_without_working_is_given_up(make: Make) -> None:
    decoders = make(replace(BOUNDS, quick_s=0.1, stopped_s=0.5), quick=1)
    with pytest.raises(Overloaded, match=r"not decoded within 0\.6 s"):
        await decoders.decode_quick(image(odd_decoder.STOPS))
    decoders.close()
    assert not children()


@pytest.mark.parametrize("command", ["false", "/no/such/program"])
async def test_a_decoder_that_does_not_start_is_no_fault_of_the_image(command: str) -> None:
    with closing(Decoders(LIMITS, SIZE, quick=1, command=(command,))) as decoders:
        for _ in range(2):
            with pytest.raises(Overloaded, match="does not start"):
                await decoders.decode_quick(image(HONEST))


async def test_what_libraries_write_becomes_one_line(
    decoders: Decoders, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    await decoded(decoders, image(odd_decoder.WARNS))
    await decoded(decoders, image(HONEST))
    (record,) = (each for each in caplog.records if each.name.startswith("vision_worker"))
    assert "lines, the first: library:0: UserWarning: tag 0" in record.getMessage()
    assert not capfd.readouterr().err


async def test_large_images_go_to_the_slow_lane_at_once(make: Make) -> None:
    decoders = make(replace(BOUNDS, quick_pixels=1000))
    with pytest.raises(NeedsSlowLane):
        await decoders.decode_quick(image(HONEST, 40))
    await decoded(decoders, image(HONEST, 40))


async def test_few_images_wait_in_the_slow_lane(decoders: Decoders) -> None:
    waiting = [
        asyncio.create_task(decoders.decode_slow(image(odd_decoder.BURNS))) for _ in range(3)
    ]
    await asyncio.sleep(0)
    assert decoders.slow_images == 3
    with pytest.raises(Overloaded, match="3 images that are slow to decode are waiting"):
        await decoders.decode_slow(image(HONEST))
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert decoders.slow_images == 0


async def test_a_caller_that_goes_ends_the_decoding(make: Make) -> None:
    decoders = make(replace(BOUNDS, slow_s=1000))
    decoding = asyncio.create_task(decoders.decode_slow(image(odd_decoder.BURNS)))
    await until(lambda: decoders.progress > 0)  # which tells that it is still being decoded
    (process,) = children()
    decoding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await decoding
    await until(lambda: process not in children())
    await decoders.decode_slow(image(HONEST))


async def test_a_decoder_that_is_gone_before_an_image_comes_is_replaced(
    decoders: Decoders,
) -> None:
    await until(lambda: len(children()) == decoders.quick)  # a new one is nameless for a moment
    for process in children():
        os.kill(process, signal.SIGKILL)
    await until(lambda: not children())
    await decoded(decoders, image(HONEST))


async def test_signals_for_the_worker_do_not_end_its_decoders(decoders: Decoders) -> None:
    await asyncio.gather(decoded(decoders, image(HONEST)), decoded(decoders, image(HONEST)))
    before = children()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for process in before:
            os.kill(process, number)
    await decoded(decoders, image(HONEST))
    assert children() == before


async def test_no_setting_of_the_worker_reaches_a_decoder(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GLM4V_REDIS_URL", "glm4v_redis_url"):  # settings are read in either case
        monkeypatch.setenv(name, "redis://user:secret@host")
    await decoded(make(), image(odd_decoder.SHOWS_ENVIRONMENT))


async def test_close_ends_all_processes(decoders: Decoders) -> None:
    burning = asyncio.create_task(decoders.decode_slow(image(odd_decoder.BURNS)))
    await decoded(decoders, image(HONEST))
    assert children()
    await asyncio.to_thread(decoders.close)
    assert not children()
    with pytest.raises((Overloaded, asyncio.CancelledError)):
        await burning
