"""Merges several streams into one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


async def merge(
    streams: Sequence[AsyncGenerator[_Item, None]], *, keepalive_s: float
) -> AsyncGenerator[_Item | None, None]:
    """Yield the items of all streams as they arrive, and None after each `keepalive_s` of silence.

    At most one item of each stream is read ahead. The first error of a stream ends the merged
    stream. Its end closes all streams.
    """
    pending: dict[asyncio.Task[_Item], AsyncGenerator[_Item, None]] = {}

    def read_from(stream: AsyncGenerator[_Item, None]) -> None:
        pending[asyncio.create_task(_next(stream))] = stream

    try:
        for stream in streams:
            read_from(stream)
        while pending:
            # The streams have deadlines of their own.
            done, _ = await asyncio.wait(
                pending, timeout=keepalive_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                yield None
            for task in done:
                stream = pending.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    continue
                yield item
                read_from(stream)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def _next(stream: AsyncGenerator[_Item, None]) -> _Item:
    return await anext(stream)
