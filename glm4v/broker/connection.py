"""The one place that opens connections to Redis, runs its scripts and names its failures."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)

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
)
CALL_TIMEOUT_S = 5.0  # for commands that do not block
BLOCK_S = 1.0  # how long a blocking read waits in the server


class Connection:
    """Connections to one Redis: one pool for short commands and bytes, one for blocking reads.

    They are apart so that neither a waiting read nor a 13 MB embedding delays a token.
    """

    def __init__(self, url: str) -> None:
        # A call that timed out is not tried again here: who calls knows how long it is worth.
        retry = Retry(ExponentialBackoff(cap=0.2, base=0.02), 2, (ConnectionError,))
        options: dict[str, Any] = {
            "socket_connect_timeout": CALL_TIMEOUT_S,
            "retry": retry,
            "retry_on_error": [ConnectionError, BusyLoadingError],
            "protocol": 2,  # answers of one shape with every version of the library
        }

        def pool(connections: int, socket_timeout_s: float) -> Any:
            """Any: the library's annotations mix its synchronous and asynchronous answers."""
            return Redis.from_pool(
                BlockingConnectionPool.from_url(
                    url,
                    max_connections=connections,  # more callers wait for their turn
                    timeout=CALL_TIMEOUT_S,
                    socket_timeout=socket_timeout_s,
                    **options,
                )
            )

        self.commands = pool(32, CALL_TIMEOUT_S)
        self.blocking = pool(4, BLOCK_S + CALL_TIMEOUT_S)
        self.bytes = pool(4, 4 * CALL_TIMEOUT_S)
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

    async def close(self) -> None:
        """Give all connections back."""
        for client in (self.commands, self.blocking, self.bytes):
            await client.aclose()


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Name Redis failures by what the caller can do about them."""
    try:
        yield
    except OutOfMemoryError as error:
        raise Overloaded("Redis is out of memory (maxmemory); try again later") from error
    except (AuthenticationError, NoPermissionError) as error:
        raise Unavailable("Redis refuses our credentials; check GLM4V_REDIS_URL") from error
    except (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OSError) as error:
        raise Unavailable("Redis does not answer; the request can be tried again") from error
