"""The embedded server rejects writes before its disk is full, so that no write fails.

With `appendfsync always` a failed write ends the server: nothing acknowledged is lost, but the
server would end again after every start. With `no` or `everysec` the write is acknowledged anyway,
and lost if the server is killed. A failed write also damages a file that a rewrite has created:
Redis since 7.0 and Valkey open it without O_APPEND, truncate the partial write, and leave a hole of
zeros with the next one. They reject such a file at the next start
(findings/full-disks-leave-holes-in-append-only-files.sh). A file that has been open since the start
gets no hole.
"""

from redis.exceptions import ResponseError

from glm4v.broker.connection import Connection, map_redis_errors
from glm4v.errors import Unavailable

_REPLICAS = "min-replicas-to-write"
_MORE_THAN_THERE_ARE = str(2**31 - 1)  # no server has so many, so this value is ours

# Options of a server that starts on a nearly full disk. It still writes deletions of expired keys.
# Such a write may fail and must not end the server, so no rewrite may open another file.
REFUSING = {
    _REPLICAS: _MORE_THAN_THERE_ARE,
    "appendfsync": "no",
    "auto-aof-rewrite-percentage": "0",
}
# In this order: the server accepts no write before writes reach the disk.
_TAKING = {"appendfsync": "always", "auto-aof-rewrite-percentage": "100", _REPLICAS: "0"}


async def refuse_writes(connection: Connection) -> None:
    """Make the server reject all writes of clients. Raises Unavailable."""
    async with map_redis_errors():
        await connection.commands.config_set(_REPLICAS, _MORE_THAN_THERE_ARE)


async def take_writes(connection: Connection) -> None:
    """Make the server accept writes, each on disk before its reply. Raises Unavailable."""
    async with map_redis_errors():
        for name, value in _TAKING.items():
            await connection.commands.config_set(name, value)


async def is_refusing(connection: Connection) -> bool:
    """Whether this is an embedded server that rejects writes; False if it does not tell."""
    try:
        async with map_redis_errors():
            found = await connection.commands.config_get(_REPLICAS)
    except (ResponseError, Unavailable):
        return False
    return bool(found.get(_REPLICAS) == _MORE_THAN_THERE_ARE)
