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

from glm4v.broker.entries import FORMAT
from glm4v.broker.keys import IMAGE_TTL_S
from glm4v.broker.redis_url import CALL_TIMEOUT_S, close_redis, open_redis, place_of
from glm4v.errors import Overloaded, Unavailable

_SCRIPTS = (
    "submit",
    "close",
    "append",
    "renew",
    "requeue",
    "await_encode",
    "begin_encoding",
    "renew_vision",
    "encoded",
    "encode_failed",
    "requeue_image",
    "forget_consumers",
    "redate",
    "set_aside",
    "room",
    "unpin_lost",
    "time",
)
_UNAVAILABLE = (
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    OSError,
    ReadOnlyError,  # it was the master a moment ago
    RedisClusterException,
    TimeoutError,
)
_RETRYABLE_REPLIES = (  # replies that the library has no class for
    "BUSY ",  # a script runs too long
    "UNBLOCKED",  # it is the master no more
)
_FULL = "Redis is out of memory (maxmemory); try again later"
BLOCK_S = 1.0  # how long a blocking read waits in the server


class QueueLost(Unavailable):
    """Redis has lost a queue; `ensure_group` makes it again."""


class TooFewReplicas(Unavailable):
    """It takes no writes: replicas are missing, or `own_server` has said so."""


class WrongType(Unavailable):
    """Something else has written to one of our keys; it is waited for until the key is removed."""


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
        self.scripts: dict[str, AsyncScript] = {
            name: self.commands.register_script(script_source("prelude") + script_source(name))
            for name in _SCRIPTS
        }

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run one of our scripts."""
        async with translated():
            return await self.scripts[script](keys=keys, args=args)

    async def ensure_group(self, stream: str, group: str) -> None:
        """Create a consumer group that reads a stream from its start, unless it exists.

        Raises Unavailable with the place where no Redis answers.
        """
        async with translated():
            try:
                await self.commands.xgroup_create(stream, group, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            except BusyLoadingError:
                raise
            except _UNAVAILABLE as error:
                raise Unavailable(self._absence(error)) from error

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
        except (*_UNAVAILABLE, ResponseError) as error:
            raise Unavailable(self._absence(error)) from None

    def _absence(self, error: Exception) -> str:
        return f"no Redis at {self._place} ({_reason(error)}); start it, or correct its URL"

    async def close(self) -> None:
        """Give all connections back."""
        for client in (self.commands, self.blocking, self.bytes):
            await close_redis(client)


def script_source(name: str) -> str:
    """What stands in a script; the prelude stands before each of them."""
    source = (files("glm4v.broker") / "scripts" / f"{name}.lua").read_text(encoding="utf-8")
    if name == "prelude":
        return f"local FORMAT, IMAGE_TTL_S = {FORMAT}, {IMAGE_TTL_S}\n{source}"
    return source


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
        raise Overloaded(_FULL) from error
    except (AuthenticationError, NoPermissionError) as error:
        raise Unavailable("Redis refuses our credentials; check GLM4V_REDIS_URL") from error
    except _UNAVAILABLE as error:
        raise Unavailable("Redis does not answer; the request can be tried again") from error
    except ResponseError as error:
        named = _named(error)
        if named is error:
            raise
        raise named from error


def _named(error: ResponseError) -> Exception:
    """By its first word; before Redis 7 what a script met is further behind."""
    text = str(error)
    if "NOGROUP" in text:  # no such stream, or no such consumer group
        return QueueLost("Redis has lost its queues; they are made again")
    if "WRONGTYPE" in text:
        return WrongType(f"a key of ours in Redis was overwritten; remove it: {text}")
    if "OOM command" in text:
        return Overloaded(_FULL)
    if "MISCONF" in text:
        return Overloaded(f"Redis cannot write to its disk; free some room there: {text}")
    if "NOREPLICAS" in text:
        return TooFewReplicas(f"Redis does not take this now: {text}")
    if text.startswith(_RETRYABLE_REPLIES):
        return Unavailable(f"Redis does not take this now: {text}")
    return error
