"""The one place that opens connections to Redis, runs its scripts and names its failures."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from redis.commands.core import AsyncScript
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TimeoutError,
)

from glm4v.broker.redis_url import CALL_TIMEOUT_S, close_redis, open_redis, place_of
from glm4v.errors import Overloaded, Unavailable

_SCRIPTS = (
    "submit",
    "close",
    "append",
    "renew",
    "hand_back",
    "need_vision",
    "begin_encoding",
    "renew_vision",
    "encoded",
    "not_encoded",
    "hand_back_vision",
    "forget_consumers",
    "time",
)
_AWAY = (
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    OSError,
    ReadOnlyError,  # it was the master a moment ago
    RedisClusterException,
    TimeoutError,
)
_NOT_NOW = (  # replies that the library has no class for
    "BUSY ",  # a script runs too long
    "MISCONF",  # the disk is full, or a snapshot failed
    "NOREPLICAS",  # too few for min-replicas-to-write
    "UNBLOCKED",  # it is the master no more
)
_NO_QUEUE = "NOGROUP"  # the stream or its consumer group is gone: Redis came back empty
BLOCK_S = 1.0  # how long a blocking read waits in the server


class QueueLost(Unavailable):
    """Redis has lost a queue; `ensure_group` makes it again."""


class Connection:
    """Connections to one Redis, of any kind that `redis_url` knows.

    Short commands, bytes and blocking reads have their own, so that neither a waiting read nor a
    13 MB embedding delays a token.
    """

    def __init__(self, url: str) -> None:
        self._place = place_of(url)
        self.commands = open_redis(url, connections=32, socket_timeout_s=CALL_TIMEOUT_S)
        self.blocking = open_redis(url, connections=4, socket_timeout_s=BLOCK_S + CALL_TIMEOUT_S)
        self.bytes = open_redis(url, connections=4, socket_timeout_s=4 * CALL_TIMEOUT_S)
        folder = files("glm4v.broker") / "scripts"
        prelude = (folder / "prelude.lua").read_text(encoding="utf-8")
        self.scripts: dict[str, AsyncScript] = {
            name: self.commands.register_script(
                prelude + (folder / f"{name}.lua").read_text(encoding="utf-8")
            )
            for name in _SCRIPTS
        }

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run one of our scripts."""
        async with translated():
            return await self.scripts[script](keys=keys, args=args)

    async def ensure_group(self, stream: str, group: str) -> None:
        """Create a consumer group that reads a stream from its start, unless it exists."""
        async with translated():
            try:
                await self.commands.xgroup_create(stream, group, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def ping(self) -> None:
        """Raise Unavailable unless Redis answers."""
        async with translated():
            await self.commands.ping()

    async def check(self) -> None:
        """Raise Unavailable, with the place, unless a Redis is there; it may still be loading."""
        try:
            await self.commands.ping()
        except BusyLoadingError:
            return
        except (AuthenticationError, NoPermissionError):
            raise Unavailable(
                f"the Redis at {self._place} refuses the account in its URL; correct it"
            ) from None
        except (*_AWAY, ResponseError) as error:
            raise Unavailable(
                f"no Redis at {self._place} ({_reason(error)}); start it, or correct its URL"
            ) from None

    async def close(self) -> None:
        """Give all connections back."""
        for client in (self.commands, self.blocking, self.bytes):
            await close_redis(client)


def _reason(error: BaseException) -> str:
    """What the system says, below what the library makes of it."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.errno:
            return os.strerror(below.errno) if below.errno > 0 else str(below.strerror)
        below = below.__cause__ or below.__context__
    return type(error).__name__


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Name Redis failures by what the caller can do about them."""
    try:
        yield
    except OutOfMemoryError as error:
        raise Overloaded("Redis is out of memory (maxmemory); try again later") from error
    except (AuthenticationError, NoPermissionError) as error:
        raise Unavailable("Redis refuses our credentials; check GLM4V_REDIS_URL") from error
    except _AWAY as error:
        raise Unavailable("Redis does not answer; the request can be tried again") from error
    except ResponseError as error:
        if _NO_QUEUE in str(error):
            raise QueueLost("Redis has lost its queues; they are made again") from error
        if not str(error).startswith(_NOT_NOW):
            raise
        raise Unavailable(f"Redis does not take this now: {error}") from error
