"""Every form of Redis URL that the services take, and how `glm4v up` looks whether one is there."""

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from glm4v.broker import Connection
from glm4v.errors import ConfigurationError, Unavailable
from glm4v.local.preflight import check_redis
from tests.redis_nodes import HOST, cluster, free_port, node, wait_for

SERVICE = "the-master"
SECRET = "s3cret"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="glm4v-") as name:
        yield Path(name)


async def check(url: str) -> None:
    connection = Connection(url)
    try:
        await connection.check()
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "host:6379",
        "redis://",
        "unix://",
        f"redis://user:{SECRET}@host:port",
        f"redis+cluster://:{SECRET}@host:port",
        "redis+cluster://",
        "http+cluster://host:1",
        "redis+sentinel://host:1",
        f"redis+sentinel://:{SECRET}@host:port/service",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"redis(\+cluster|\+sentinel)?://") as refused:
        Connection(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("kind", ["redis", "redis+cluster"])
async def test_where_nobody_listens_is_said_without_the_password(kind: str) -> None:
    place = f"{HOST}:{free_port()}"
    with pytest.raises(Unavailable, match=rf"no Redis at {kind.replace('+', '.')}://{place}") as no:
        await check(f"{kind}://user:{SECRET}@{place}")
    assert SECRET not in str(no.value)


async def test_a_socket_without_a_server_is_named(folder: Path) -> None:
    with pytest.raises(Unavailable, match=r"no Redis at unix:///.*nobody\.sock \("):
        await check(f"unix://{folder}/nobody.sock?password={SECRET}")


async def test_something_else_that_listens_is_no_redis() -> None:
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
        listening.settimeout(0.5)

        def hang_up() -> None:
            for _ in range(8):
                try:
                    listening.accept()[0].close()
                except OSError:
                    return

        hanging_up = asyncio.create_task(asyncio.to_thread(hang_up))
        with pytest.raises(Unavailable, match="no Redis at"):
            await check(f"redis://{HOST}:{port}/0")
    await hanging_up


async def test_a_server_that_wants_another_account_says_so(folder: Path) -> None:
    port = free_port()
    with node(folder / "one", port) as client:
        client.config_set("requirepass", SECRET)
        with pytest.raises(Unavailable, match="rejects the credentials"):
            await check(f"redis://{HOST}:{port}/0")
        await check(f"redis://:{SECRET}@{HOST}:{port}/0")


async def test_up_takes_a_cluster_and_the_master_of_sentinels(folder: Path) -> None:
    with cluster(folder) as url:
        await check_redis(url)
    port, sentinel_port = free_port(), free_port()
    watched = f"sentinel monitor {SERVICE} {HOST} {port} 1\n"
    with (
        node(folder / "master", port),
        node(folder / "sentinel", sentinel_port, "--sentinel", config=watched) as sentinel,
    ):
        wait_for(lambda: sentinel.sentinel_master(SERVICE))
        await check_redis(f"redis+sentinel://{HOST}:{sentinel_port}/{SERVICE}/0")
        with pytest.raises(Unavailable, match=f"no Redis at .*{sentinel_port}/another"):
            await check_redis(f"redis+sentinel://{HOST}:{sentinel_port}/another")


async def most_at_once(connection: Connection, port: int, calls: int) -> int:
    """Connections that a server sees of many calls that wait in it at the same time."""
    commands = connection.blocking
    waiting = [asyncio.create_task(commands.xread({"{s}": "0"}, block=300)) for _ in range(calls)]
    most = 0
    while not all(each.done() for each in waiting):
        listed = await connection.commands.client_list()
        clients = listed if isinstance(listed, list) else listed.values()
        most = max(most, sum(each["cmd"] == "xread" for each in clients))
        await asyncio.sleep(0.05)
    await asyncio.gather(*waiting)
    return most


async def test_many_calls_share_few_connections_with_every_kind(folder: Path) -> None:
    port, sentinel_port = free_port(), free_port()
    watched = f"sentinel monitor {SERVICE} {HOST} {port} 1\n"
    with (
        node(folder / "master", port),
        node(folder / "sentinel", sentinel_port, "--sentinel", config=watched) as sentinel,
        cluster(folder, size=1) as cluster_url,
    ):
        wait_for(lambda: sentinel.sentinel_master(SERVICE))
        urls = [
            f"redis://{HOST}:{port}/0",
            f"redis+sentinel://{HOST}:{sentinel_port}/{SERVICE}",
            cluster_url,
        ]
        for url in urls:
            connection = Connection(url)
            await connection.ping()
            assert await most_at_once(connection, port, 12) == 4, url
            await connection.close()
