"""Lets a Redis of our own refuse writes while its disk is nearly full; `own_server` says why."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from glm4v.broker import Connection
from glm4v.broker.own_server import refuse_writes, take_writes
from glm4v.errors import Unavailable
from glm4v.local.redis_launch import missing_bytes

_LOOK_S = 0.1
_TELL_S = 1.0  # how often the server is told again, and how long it refuses at least


async def guard_disk(url: str, folder: Path, show: Callable[[str], None]) -> None:
    """Watch the disk that `folder` is on, until cancelled; `show` gets a line for every change."""
    connection = Connection(url)
    was_full, told_at = False, -_TELL_S
    try:
        while True:
            is_full = missing_bytes(folder) > 0
            if is_full != was_full:
                show(
                    f"the disk of {folder} is nearly full: requests are refused"
                    if is_full
                    else f"the disk of {folder} has room again"
                )
            # Again and again, as a server that was started anew has looked for itself, and cannot
            # be told while it starts.
            if is_full != was_full or time.monotonic() - told_at >= _TELL_S:
                with suppress(Unavailable):
                    await (refuse_writes(connection) if is_full else take_writes(connection))
                told_at = time.monotonic()
            was_full = is_full
            await asyncio.sleep(_TELL_S if is_full else _LOOK_S)
    finally:
        await connection.close()
