"""A server of our own refuses writes before its disk is full, so that none of them fails.

With `appendfsync always` a write that fails ends the server: nothing acknowledged is lost, but it
would end again after every start. With `no` or `everysec` it is acknowledged all the same, and
lost if the server is killed. And it damages a file that a rewrite has begun: Redis from 7.0 on and
Valkey open such a file without O_APPEND, take a write that was cut off back, and leave a hole of
zeros there with the next one, for which the file is refused at the next start
(findings/full-disks-leave-holes-in-append-only-files.sh). A file that was open since the start
gets no hole.
"""

from redis.exceptions import ResponseError

from glm4v.broker.connection import Connection, map_redis_errors
from glm4v.errors import Unavailable

_REPLICAS = "min-replicas-to-write"
_MORE_THAN_THERE_ARE = str(2**31 - 1)  # no server has so many replicas: we refuse, nobody else

# Options of a server that is started where its disk is nearly full. What lapses is still written:
# that may fail and must not end the server, so no rewrite may open another file.
REFUSING = {
    _REPLICAS: _MORE_THAN_THERE_ARE,
    "appendfsync": "no",
    "auto-aof-rewrite-percentage": "0",
}
# In this order: nothing is taken before it reaches the disk.
_TAKING = {"appendfsync": "always", "auto-aof-rewrite-percentage": "100", _REPLICAS: "0"}


async def refuse_writes(connection: Connection) -> None:
    """Let the server refuse all writes of clients. Raises Unavailable."""
    async with map_redis_errors():
        await connection.commands.config_set(_REPLICAS, _MORE_THAN_THERE_ARE)


async def take_writes(connection: Connection) -> None:
    """Let the server take writes, each on the disk before its reply. Raises Unavailable."""
    async with map_redis_errors():
        for name, value in _TAKING.items():
            await connection.commands.config_set(name, value)


async def is_refusing(connection: Connection) -> bool:
    """Whether it is a server of our own that takes no writes; False where it does not tell."""
    try:
        async with map_redis_errors():
            found = await connection.commands.config_get(_REPLICAS)
    except (ResponseError, Unavailable):
        return False
    return bool(found.get(_REPLICAS) == _MORE_THAN_THERE_ARE)
