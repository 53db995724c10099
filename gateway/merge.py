"""Several streams as one, each item as soon as it is there."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


async def merge(
    streams: Sequence[AsyncGenerator[_Item, None]],
) -> AsyncGenerator[_Item, None]:
    """Items of all streams; at most one of each is read ahead.

    The first error of a stream ends it. All streams are closed at its end.
    """
    coming: dict[asyncio.Task[_Item], AsyncGenerator[_Item, None]] = {}

    def follow(stream: AsyncGenerator[_Item, None]) -> None:
        coming[asyncio.create_task(_next(stream))] = stream

    try:
        for stream in streams:
            follow(stream)
        while coming:
            # No timeout: each stream has its own.
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = coming.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    continue
                yield item
                follow(stream)
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def _next(stream: AsyncGenerator[_Item, None]) -> _Item:
    return await anext(stream)
