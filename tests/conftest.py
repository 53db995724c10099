"""A real Redis for tests: one process a session, one namespace a test."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from glm4v.broker import Connection, Keys
from glm4v.local.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an embedded server that lives as long as the tests."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    """Connections to the server."""
    connection = Connection(redis_url)
    yield connection
    await connection.close()


@pytest.fixture
def keys() -> Keys:
    """Key names of this test alone."""
    return Keys(f"test-{uuid.uuid4().hex[:8]}")
