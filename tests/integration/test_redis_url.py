"""Every form of Redis URL that the services take, and how `glm4v up` looks whether one is there."""

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from glm4v.broker import Connection, Keys
from glm4v.broker.blobs import Blobs
from glm4v.broker.redis_url import with_credentials
from glm4v.errors import ConfigurationError, Unavailable
from glm4v.local.preflight import check_redis
from glm4v.process.environment import read_settings
from glm4v.process.redis_connection import connect
from glm4v.process.settings import GatewaySettings
from glm4v.tensor_bytes import TensorBytes
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


@pytest.mark.parametrize(
    ("url", "username", "password", "expected"),
    [
        ("redis://h:1/0", "", "", "redis://h:1/0"),
        ("redis://h:1/0", None, None, "redis://h:1/0"),
        ("redis://h:1/0", "", "p@ss/w#rd", "redis://:p%40ss%2Fw%23rd@h:1/0"),
        (
            "rediss+cluster://h:1?ssl_ca_certs=/ca",
            "u:1",
            "p",
            "rediss+cluster://u%3A1:p@h:1?ssl_ca_certs=/ca",
        ),
        ("redis+sentinel://h:1,i:2/s/0", "u", "p", "redis+sentinel://u:p@h:1,i:2/s/0"),
        ("redis://other:one@h:1/0", "u", "p", "redis://other:one@h:1/0"),
        ("unix:///run/redis.sock", "u", "p", "unix:///run/redis.sock"),
    ],
)
def test_credentials_join_a_url_that_has_none(
    url: str, username: str | None, password: str | None, expected: str
) -> None:
    assert with_credentials(url, username, password) == expected


async def test_an_account_with_a_strange_password_is_taken_from_the_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, password = free_port(), "p@ss/w#rd:1?x=y z%41"
    monkeypatch.setenv("GLM4V_MODEL", "/model")
    monkeypatch.setenv("GLM4V_REDIS_URL", f"redis://{HOST}:{port}/0")
    monkeypatch.setenv("GLM4V_REDIS_USERNAME", "glm4v")
    monkeypatch.setenv("GLM4V_REDIS_PASSWORD", password)
    with node(folder / "one", port) as client:
        client.acl_setuser(
            "glm4v", enabled=True, passwords=f"+{password}", keys="*", commands=["+@all"]
        )
        client.acl_setuser("default", enabled=False)
        connection = connect(read_settings(GatewaySettings))
        try:
            await connection.check()
        finally:
            await connection.close()
        await check_redis(f"redis://{HOST}:{port}/0")


async def test_embeddings_may_have_a_server_of_their_own(folder: Path) -> None:
    ports = [free_port(), free_port()]
    with (
        node(folder / "queues", ports[0]) as queues,
        node(folder / "embeddings", ports[1]) as other,
    ):
        connection = Connection(*(f"redis://{HOST}:{port}/0" for port in ports))
        blobs = Blobs(connection, Keys("own"))
        tensor = TensorBytes("float32", (1, 2), b"12345678")
        try:
            await blobs.put_image("i", b"image")
            await blobs.put_embedding("model", "i", tensor)
            assert await blobs.embedding("model", "i") == tensor
            assert await blobs.touch_embedding("model", "i")
            assert queues.keys() == [b"{own}:image:i"]
            assert other.keys() == [b"own:embedding:model:i"]
            other.flushall()  # as after a restart of a server that keeps nothing
            assert await blobs.embedding("model", "i") is None
        finally:
            await connection.close()
