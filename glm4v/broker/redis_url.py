"""What a Redis URL stands for: one server, the master that Sentinels know, or a cluster.

redis://[user:password@]host:port/0           also rediss:// (TLS) and unix:///path
redis+sentinel://[user:password@]host:port[,host:port …]/service[/0]
redis+cluster://[user:password@]host:port     also rediss+cluster://; any node
"""

from typing import Any
from urllib.parse import unquote

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.exceptions import BusyLoadingError, ConnectionError

from glm4v.errors import ConfigurationError

CALL_TIMEOUT_S = 5.0  # for commands that do not block
_SENTINEL = "redis+sentinel://"
_CLUSTER = "+cluster://"
_SENTINEL_PORT = 26379


def open_redis(url: str, *, connections: int, socket_timeout_s: float) -> Any:
    """A client for one kind of call; it connects when it is first used.

    At most `connections` to one server; more callers wait for their turn. Any: the library's
    annotations mix its synchronous and asynchronous answers. Raises ConfigurationError, without the
    URL, as it may hold a password.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": CALL_TIMEOUT_S,
        "socket_timeout": socket_timeout_s,
        "protocol": 2,  # answers of one shape with every version of the library
    }
    if _CLUSTER in url:
        return RedisCluster.from_url(url.replace(_CLUSTER, "://", 1), **options)
    options |= {
        # A call that timed out is not tried again here: who calls knows how long it is worth.
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.02), 2, (ConnectionError,)),
        "retry_on_error": [ConnectionError, BusyLoadingError],
    }
    if url.startswith(_SENTINEL):
        return _master(url.removeprefix(_SENTINEL), options)
    try:
        pool = BlockingConnectionPool.from_url(
            url, max_connections=connections, timeout=socket_timeout_s, **options
        )
    except ValueError:
        raise ConfigurationError(
            "GLM4V_REDIS_URL must begin with redis://, rediss://, unix://, redis+sentinel:// or "
            "redis+cluster://"
        ) from None
    return Redis.from_pool(pool)


async def close_redis(client: Any) -> None:
    """Give the connections back, those to Sentinels too."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)  # a cluster's client has several
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _master(place: str, options: dict[str, Any]) -> Any:
    """Asks the Sentinels for the master at every new connection, so that it follows a failover."""
    account, _, place = place.rpartition("@")
    hosts, _, name = place.partition("/")
    service, _, database = name.partition("/")
    try:
        nodes = [_node(host) for host in hosts.split(",")]
        number = int(database or 0)
    except ValueError:
        nodes, number = [], 0
    if not (nodes and service):
        raise ConfigurationError(
            "GLM4V_REDIS_URL for Sentinels is redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/0"
        )
    if account:
        user, _, password = account.partition(":")
        options |= {"username": unquote(user) or None, "password": unquote(password)}
    sentinel_of: Any = Sentinel  # it has no annotations
    sentinel = sentinel_of(nodes, sentinel_kwargs=options | {"socket_timeout": 1.0}, **options)
    return sentinel.master_for(service, db=number)


def _node(host: str) -> tuple[str, int]:
    name, _, port = host.rpartition(":")
    return (name, int(port)) if name else (host, _SENTINEL_PORT)
