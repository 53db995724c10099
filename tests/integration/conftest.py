"""The whole system as processes, started once for the tests that only ask it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest
import pytest_asyncio

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.local.cluster import ClusterSettings, LocalCluster
from glm4v.local.redis_server import RedisServer
from tests.integration.system import System


@asynccontextmanager
async def running_system(model: Path) -> AsyncIterator[System]:
    """A system and a Redis of our own with this checkpoint, in single precision."""
    with TemporaryDirectory(prefix="glm4v-") as folder, RedisServer(Path(folder)) as redis:
        settings = ClusterSettings(
            model=model, redis_url=redis.url, dtype="float32", restart=False, http_port=0
        )
        async with (
            LocalCluster(settings) as cluster,
            grpc.aio.insecure_channel(cluster.target) as channel,
        ):
            yield System(cluster.target, cluster.http_url, redis.url, channel)


@pytest.fixture
def fingerprint(checkpoint_dir: Callable[[str], Path]) -> str:
    """Of the smallest checkpoint."""
    return Checkpoint.open(checkpoint_dir("micro-glm4v")).fingerprint


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def system(checkpoint_dir: Callable[[str], Path]) -> AsyncIterator[System]:
    """The system with the smallest checkpoint."""
    async with running_system(checkpoint_dir("micro-glm4v")) as system:
        yield system
