"""Opens clients for Redis URLs: one server, a master that Sentinels watch, or a cluster.

redis://[user:password@]host:port/0           also rediss:// (TLS)
unix:///path                                  a unix socket
redis+sentinel://[user:password@]host:port[,host:port …]/service[/0]
redis+cluster://[user:password@]host:port     also rediss+cluster:// (TLS); any node
"""

import asyncio
from typing import Any
from urllib.parse import quote, unquote

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, RedisClusterException

from glm4v.errors import ConfigurationError

CALL_TIMEOUT_S = 5.0  # for commands that do not block
KINDS = "redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// or rediss+cluster://"
_SENTINEL_PORT = 26379


def with_credentials(url: str, username: str | None, password: str | None) -> str:
    """The URL with credentials, unless it has some, is a socket's, or there are none."""
    scheme, separator, rest = url.partition("://")
    if not (username or password) or "@" in rest or scheme == "unix":
        return url
    account = ":".join(quote(part or "", safe="") for part in (username, password))
    return f"{scheme}{separator}{account}@{rest}"


class _MasterPool(SentinelConnectionPool, BlockingConnectionPool):
    """A bounded pool of connections to the master that Sentinels name; callers wait for one."""


class _BoundedCluster(RedisCluster):
    """A client for a cluster whose callers wait at the limit; the library's own limit raises."""

    def __init__(self, *args: Any, max_calls: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._slots = asyncio.Semaphore(max_calls)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with self._slots:
            return await super().execute_command(*args, **options)


def open_redis(url: str, *, connections: int, socket_timeout_s: float) -> Any:
    """A client for one kind of call; it connects on first use.

    It opens at most `connections` to one server; further callers wait. The type is Any because the
    library's annotations mix synchronous and asynchronous results. Raises ConfigurationError,
    without the URL, which may contain a password.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": CALL_TIMEOUT_S,
        "socket_timeout": socket_timeout_s,
        "protocol": 2,  # the same reply types with every version of the library
    }
    pool: dict[str, Any] = {
        "max_connections": connections,
        "timeout": socket_timeout_s,
        # A call that timed out is not retried here: the caller knows how long to try.
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.02), 2, (ConnectionError,)),
        "retry_on_error": [ConnectionError, BusyLoadingError],
    }
    scheme, _, address = url.partition("://")
    match scheme:
        case "redis" | "rediss" | "unix" if address:
            return _server(url, options | pool)
        case "redis+sentinel":
            return _master(address, options, pool)
        case "redis+cluster" | "rediss+cluster":
            return _cluster(f"{scheme.removesuffix('+cluster')}://{address}", connections, options)
    raise ConfigurationError(f"the Redis URL must start with {KINDS}")


def address_of(url: str) -> str:
    """The address in a URL, without credentials and options, which may be secret."""
    scheme, _, address = url.partition("?")[0].partition("://")
    return f"{scheme}://{address.rpartition('@')[2]}"


async def close_redis(client: Any) -> None:
    """Close the connections, including those to Sentinels."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)  # a cluster's client has several
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _server(url: str, options: dict[str, Any]) -> Any:
    try:
        return Redis.from_pool(BlockingConnectionPool.from_url(url, **options))
    except ValueError:  # its message may contain a password
        raise ConfigurationError(
            f"the Redis URL at {address_of(url)} is invalid; "
            "it is redis://HOST:PORT/0, rediss://HOST:PORT/0 or unix:///PATH"
        ) from None


def _cluster(url: str, connections: int, options: dict[str, Any]) -> Any:
    try:
        # A redirection may need one connection more than the limit.
        return _BoundedCluster.from_url(url, max_calls=connections, **options)
    except (RedisClusterException, ValueError):
        raise ConfigurationError(
            "the Redis URL of a cluster is redis+cluster://HOST:PORT, with any of its nodes"
        ) from None


def _master(address: str, options: dict[str, Any], pool: dict[str, Any]) -> Any:
    """Each new connection asks the Sentinels for the master, so the client follows a failover."""
    account, _, address = address.rpartition("@")
    hosts, _, name = address.partition("/")
    service, _, database = name.partition("/")
    try:
        nodes = [_node(host) for host in hosts.split(",")]
        number = int(database or 0)
    except ValueError:
        nodes, number = [], 0
    if not (nodes and service):
        raise ConfigurationError(
            "the Redis URL of Sentinels is redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/0"
        )
    if account:
        user, _, password = account.partition(":")
        options |= {"username": unquote(user) or None, "password": unquote(password)}
    sentinel_of: Any = Sentinel  # it has no annotations
    sentinel = sentinel_of(nodes, sentinel_kwargs=options | {"socket_timeout": 1.0})
    return sentinel.master_for(
        service, connection_pool_class=_MasterPool, db=number, **options, **pool
    )


def _node(host: str) -> tuple[str, int]:
    name, _, port = host.rpartition(":")
    return (name, int(port)) if name else (host, _SENTINEL_PORT)
