"""Calls in the device's thread, and what becomes of them."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from glm4v.device.device_thread import DeviceThread

WAIT_S = 20.0


@pytest.fixture
def thread() -> Iterator[DeviceThread]:
    thread = DeviceThread()
    yield thread
    assert thread.end(WAIT_S), "the thread died, or is stuck"


async def test_a_call_runs_in_one_other_thread(thread: DeviceThread) -> None:
    idents = {await thread.call(threading.get_ident) for _ in range(2)}
    assert len(idents) == 1
    assert threading.get_ident() not in idents


async def test_an_error_is_that_of_its_call_only(thread: DeviceThread) -> None:
    def fail() -> None:
        raise ValueError("no such block")

    calls = (thread.call(fail), thread.call(lambda: 7))
    error, result = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(error, ValueError)
    assert result == 7


async def test_a_cancelled_call_is_not_begun(thread: DeviceThread) -> None:
    begun, go_on, ran = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        go_on.wait(WAIT_S)

    running = asyncio.create_task(thread.call(first))
    waiting = asyncio.create_task(thread.call(lambda: ran.append(1)))
    await asyncio.to_thread(begun.wait, WAIT_S)
    waiting.cancel()
    running.cancel()  # its result is dropped
    await asyncio.gather(running, waiting, return_exceptions=True)
    go_on.set()
    await thread.call(lambda: None)
    assert ran == []


def test_a_call_may_outlive_its_event_loop(thread: DeviceThread) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(WAIT_S)

    async def ask() -> None:
        asking = asyncio.create_task(thread.call(work))
        await asyncio.to_thread(begun.wait, WAIT_S)
        asking.cancel()

    asyncio.run(ask())
    go_on.set()
    assert asyncio.run(asyncio.wait_for(thread.call(lambda: 7), WAIT_S)) == 7
