"""Keeps a Redis of our own alive while its disk is full.

`appendfsync always` puts every write on the disk before the reply, and ends the server when that
cannot be done. Where room runs short it is `no` instead: what cannot be written is refused then,
and a power failure may lose what was written meanwhile. With room again it is `always` again.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from glm4v.broker import Connection
from glm4v.errors import Overloaded, Unavailable
from glm4v.local.redis_launch import is_nearly_full

_LOOK_S = 1.0


async def guard_disk(url: str, folder: Path, show: Callable[[str], None]) -> None:
    """Watch the disk that `folder` is on, until cancelled; `show` gets a line for every change."""
    connection = Connection(url)
    was_full = False
    try:
        while True:
            is_full = is_nearly_full(folder)
            if is_full != was_full:
                show(
                    f"the disk of {folder} is nearly full: requests are refused once it is"
                    if is_full
                    else f"the disk of {folder} has room again"
                )
            was_full = is_full
            # Each time, as a server that was started anew has chosen for itself; while it is being
            # started the next look is a second away.
            with suppress(Overloaded, Unavailable):
                await connection.set_fsync("no" if is_full else "always")
            await asyncio.sleep(_LOOK_S)
    finally:
        await connection.close()
