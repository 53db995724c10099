"""What many tests need: checkpoints, written once, and a real Redis, one namespace a test."""

import json
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from glm4v.broker import Connection, Keys
from glm4v.checkpoint.tiny import write_checkpoint, write_tiny
from glm4v.local.redis_server import RedisServer
from tests.reference import REFERENCE

pytest_plugins = ["tests.needs"]

# In the background interrupts are ignored, under nohup hangups: all processes would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # the tests themselves still outlive the terminal


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an embedded server that lives as long as the tests."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), fsync="no")
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server of one test alone, to be broken."""
    server = RedisServer(tmp_path_factory.mktemp("r"), fsync="no")
    server.start()
    yield server
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


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the random-weight checkpoint called `name`, written on first use.

    All but "micro-glm4v" need the reference: their configurations and the real vocabulary.
    """
    written: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in written:
            folder = tmp_path_factory.mktemp("checkpoints") / name
            if name == "micro-glm4v":
                write_tiny(folder)
            else:
                entry = json.loads((REFERENCE / "configs.json").read_bytes())[name]
                tokenizer = (REFERENCE / "tokenizer.model").read_bytes()
                write_checkpoint(entry["config"], entry["seed"], tokenizer, folder)
            written[name] = folder
        return written[name]

    return write
