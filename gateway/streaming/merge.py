"""Several streams as one, each item as soon as it is there."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


async def merge(
    streams: Sequence[AsyncGenerator[_Item, None]], *, silence_s: float
) -> AsyncGenerator[_Item | None, None]:
    """Items of all streams, and None after every `silence_s` without one.

    At most one item of each stream is read ahead. The first error of a stream ends it. All streams
    are closed at its end.
    """
    coming: dict[asyncio.Task[_Item], AsyncGenerator[_Item, None]] = {}

    def follow(stream: AsyncGenerator[_Item, None]) -> None:
        coming[asyncio.create_task(_next(stream))] = stream

    try:
        for stream in streams:
            follow(stream)
        while coming:
            # What ends a stream that stays silent is its own affair.
            done, _ = await asyncio.wait(
                coming, timeout=silence_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                yield None
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
