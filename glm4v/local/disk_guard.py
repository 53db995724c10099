"""Makes the embedded Redis refuse writes while its disk is nearly full; see `own_server`."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from glm4v.broker import Connection
from glm4v.broker.own_server import refuse_writes, take_writes
from glm4v.errors import Unavailable
from glm4v.local.redis_launch import missing_bytes

_CHECK_S = 0.1
_REPEAT_S = 1.0  # between two commands to the server, and the least time that it refuses writes


async def guard_disk(url: str, folder: Path, show: Callable[[str], None]) -> None:
    """Watch the disk of `folder` until cancelled; `show` receives a line for every change."""
    connection = Connection(url)
    was_full, sent_at = False, -_REPEAT_S
    try:
        while True:
            is_full = missing_bytes(folder) > 0
            if is_full != was_full:
                show(
                    f"the disk of {folder} is nearly full: requests are refused"
                    if is_full
                    else f"the disk of {folder} has enough space again"
                )
            # Repeated, because a restarted server has chosen for itself and takes no command while
            # it starts.
            if is_full != was_full or time.monotonic() - sent_at >= _REPEAT_S:
                with suppress(Unavailable):
                    await (refuse_writes(connection) if is_full else take_writes(connection))
                sent_at = time.monotonic()
            was_full = is_full
            await asyncio.sleep(_REPEAT_S if is_full else _CHECK_S)
    finally:
        await connection.close()
