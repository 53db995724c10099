"""Cancels tasks for certain."""

import asyncio

_AGAIN_S = 1.0


async def cancel(*tasks: "asyncio.Future[None]") -> None:
    """Cancel tasks and wait until they have ended, whatever they raise.

    A library may swallow a cancellation: redis-py on Python 3.11.2 was seen to, when it came while
    a call ended. So it is repeated.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
