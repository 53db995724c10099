"""Opens connections to Redis, runs the Lua scripts and maps errors."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from typing import Any

from redis.commands.core import AsyncScript
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TimeoutError,
)

from glm4v.broker.entries import FORMAT
from glm4v.broker.keys import (
    IMAGE_OWNER_TTL_S,
    IMAGE_TTL_S,
    LM_GROUP,
    MAX_ENDED,
    UNSERVED_AFTER_MS,
)
from glm4v.broker.redis_url import CALL_TIMEOUT_S, address_of, close_redis, open_redis
from glm4v.errors import Overloaded, Unavailable

_SCRIPTS = (
    "submit",
    "close",
    "append",
    "renew",
    "requeue",
    "await_encode",
    "begin_encode",
    "renew_image",
    "encode_done",
    "encode_failed",
    "requeue_image",
    "forget_consumers",
    "redate",
    "dead_letter",
    "check_capacity",
    "release_lost",
    "claim",
    "register_queues",
    "worker_seen",
    "report_worker",
    "queue_lengths",
    "queue_position",
    "prune_requests",
    "prune_image",
    "drop_queue",
    "adopt",
    "adopt_rest",
    "time",
)
_UNAVAILABLE = (
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    OSError,
    ReadOnlyError,  # the server was the master a moment ago
    RedisClusterException,
    TimeoutError,
)
_NO_MEMORY = "Out of memory"  # what hiredis says of a reply for which malloc fails
_RETRYABLE_REPLIES = (  # the library has no classes for these
    "BUSY ",  # a script runs for too long
    "UNBLOCKED",  # the server is no longer the master
)
_FULL = "Redis is out of memory (maxmemory); try again later"
BLOCK_S = 1.0  # longest time that a blocking read waits in the server


class QueueLost(Unavailable):
    """Redis has lost a queue; `ensure_group` creates it again."""


class TooFewReplicas(Unavailable):
    """Redis rejects writes: replicas are missing, or `own_server` told it to."""


class WrongType(Unavailable):
    """A key has a foreign value of another type; callers retry until the key is removed."""


class Connection:
    """Connections to one Redis of any kind that `redis_url` supports.

    Short commands, large values and blocking reads use separate connections, so that neither a
    blocking read nor a 13 MB embedding delays a token. Embeddings may have a Redis of their own.
    """

    def __init__(self, url: str, embeddings_url: str = "") -> None:
        self._address = address_of(url)
        self.commands = open_redis(url, connections=32, socket_timeout_s=CALL_TIMEOUT_S)
        self.blocking = open_redis(url, connections=4, socket_timeout_s=BLOCK_S + CALL_TIMEOUT_S)
        self.bulk = open_redis(url, connections=4, socket_timeout_s=4 * CALL_TIMEOUT_S)
        self.embeddings = self.bulk
        if embeddings_url:
            self.embeddings = open_redis(
                embeddings_url, connections=4, socket_timeout_s=4 * CALL_TIMEOUT_S
            )
        self.scripts: dict[str, AsyncScript] = {
            name: self.commands.register_script(script_source("prelude") + script_source(name))
            for name in _SCRIPTS
        }

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a Lua script by name."""
        async with map_redis_errors():
            return await self.scripts[script](keys=keys, args=args)

    async def ensure_group(self, stream: str, group: str) -> None:
        """Create a consumer group that reads a stream from its start, unless it exists.

        Raises Unavailable, with the address, when no Redis answers.
        """
        async with map_redis_errors():
            try:
                await self.commands.xgroup_create(stream, group, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            except BusyLoadingError:
                raise
            except _UNAVAILABLE as error:
                raise Unavailable(self._unreachable(error)) from error

    async def ping(self) -> None:
        """Raise Unavailable unless Redis answers."""
        async with map_redis_errors():
            await self.commands.ping()

    async def check(self) -> None:
        """Raise Unavailable, with the address, unless a Redis runs there; it may be loading."""
        try:
            await self.commands.ping()
        except BusyLoadingError:
            return
        except (AuthenticationError, NoPermissionError):
            raise Unavailable(
                f"the Redis at {self._address} rejects the credentials in its URL; correct them"
            ) from None
        except (*_UNAVAILABLE, ResponseError) as error:
            raise Unavailable(self._unreachable(error)) from None

    def _unreachable(self, error: Exception) -> str:
        return f"no Redis at {self._address} ({_reason(error)}); start it, or correct its URL"

    async def close(self) -> None:
        """Close all connections."""
        clients = [self.commands, self.blocking, self.bulk]
        if self.embeddings is not self.bulk:
            clients.append(self.embeddings)
        for client in clients:
            await close_redis(client)


def script_source(name: str) -> str:
    """The text of a script, or of the prelude that is prepended to each."""
    source = (files("glm4v.broker") / "scripts" / f"{name}.lua").read_text(encoding="utf-8")
    if name == "prelude":
        constants = {
            "FORMAT": FORMAT,
            "IMAGE_TTL_S": IMAGE_TTL_S,
            "IMAGE_OWNER_TTL_S": IMAGE_OWNER_TTL_S,
            "UNSERVED_AFTER_MS": UNSERVED_AFTER_MS,
            "LM_GROUP": f'"{LM_GROUP}"',
            "MAX_ENDED": MAX_ENDED,
        }
        lines = [f"local {constant} = {value}\n" for constant, value in constants.items()]
        return "".join(lines) + source
    return source


def _reason(error: BaseException) -> str:
    """The operating system's message behind an error of the library."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.errno:
            return os.strerror(below.errno) if below.errno > 0 else str(below.strerror)
        below = below.__cause__ or below.__context__
    return type(error).__name__


@asynccontextmanager
async def map_redis_errors() -> AsyncIterator[None]:
    """Map errors of Redis to Overloaded, Unavailable and their subclasses.

    Raises MemoryError if a reply does not fit into this process's memory.
    """
    try:
        with _cancellation_kept():
            yield
    except OutOfMemoryError as error:
        raise Overloaded(_FULL) from error
    except (AuthenticationError, NoPermissionError) as error:
        raise Unavailable("Redis rejects the credentials; check GLM4V_REDIS_URL") from error
    except _UNAVAILABLE as error:
        raise Unavailable("Redis does not answer; try again") from error
    except InvalidResponse as error:
        if str(error) != _NO_MEMORY:
            raise
        raise MemoryError("no memory for a reply of Redis") from error
    except ResponseError as error:
        mapped = _mapped(error)
        if mapped is error:
            raise
        raise mapped from error


@contextmanager
def _cancellation_kept() -> Iterator[None]:
    """Raise CancelledError if the task was cancelled inside, though the library lost it.

    redis-py sends with `asyncio.wait_for`, which before Python 3.12 returns as if nothing had
    happened when the cancellation meets the end of the sending (python/cpython#86296), and it may
    turn one into an error of the connection. Earlier cancellations do not count: a task that cleans
    up after one may still call Redis.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except Exception:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from None
        raise
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def _mapped(error: ResponseError) -> Exception:
    """By the error code; before Redis 7 that of a script is not the first word."""
    text = str(error)
    if "NOGROUP" in text:  # no such stream, or no such consumer group
        return QueueLost("Redis has lost its queues; creating them again")
    if "WRONGTYPE" in text:
        return WrongType(f"a key in Redis was overwritten by another program; remove it: {text}")
    if "OOM command" in text:
        return Overloaded(_FULL)
    if "MISCONF" in text:
        return Overloaded(f"Redis cannot write to its disk; free some room there: {text}")
    if "NOREPLICAS" in text:
        return TooFewReplicas(f"Redis is temporarily rejecting writes: {text}")
    if text.startswith(_RETRYABLE_REPLIES):
        return Unavailable(f"Redis is temporarily rejecting writes: {text}")
    return error
