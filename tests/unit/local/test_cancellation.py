"""Tasks end although a library swallows the first cancellation."""

import asyncio
from contextlib import suppress

import pytest

from glm4v.local import cancellation
from glm4v.local.cancellation import cancel


async def test_a_swallowed_cancellation_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "_AGAIN_S", 0.01)

    async def swallow() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)
        await asyncio.sleep(1000)

    async def fail() -> None:
        raise ValueError("before")

    tasks = [asyncio.create_task(swallow()), asyncio.create_task(fail())]
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel(*tasks), 5)
    assert tasks[0].cancelled()
