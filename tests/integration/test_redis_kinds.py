"""The protocol on a Redis Cluster, and over the failover of a master that Sentinels watch."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from redis import Redis

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.lm_queue import Append, LmQueue
from glm4v.broker.retry import retry_until_available
from glm4v.errors import Unavailable
from glm4v.internal.v1 import journal_pb2 as pb
from tests.journal_events import events_of
from tests.redis_nodes import HOST, cluster, free_port, node, wait_for
from tests.simulation.schedule import run_schedule

SCHEDULES = 30
SERVICE = "glm4v-master"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="glm4v-") as name:
        yield Path(name)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Connection]:
    connection = Connection(url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_every_script_works_on_a_cluster_of_three_nodes(folder: Path) -> None:
    with cluster(folder) as url:
        async with opened(url) as connection:
            for seed in range(SCHEDULES):  # by its name each lies on another node
                await run_schedule(connection, Keys(f"schedule-{seed}"), seed)


async def test_a_cluster_that_is_gone_is_unavailable() -> None:
    async with opened(f"redis+cluster://{HOST}:{free_port()}") as connection:
        with pytest.raises(Unavailable):
            await connection.ping()


async def test_a_request_goes_on_over_the_failover_of_its_master(folder: Path, keys: Keys) -> None:
    master_port, replica_port, sentinel_port = free_port(), free_port(), free_port()
    watched = (
        f"sentinel monitor {SERVICE} {HOST} {master_port} 1\n"
        f"sentinel down-after-milliseconds {SERVICE} 500\n"
        f"sentinel failover-timeout {SERVICE} 2000\n"
    )
    async with AsyncExitStack() as stack:
        master = stack.enter_context(node(folder / "master", master_port))
        replica = stack.enter_context(
            node(folder / "replica", replica_port, "--replicaof", HOST, str(master_port))
        )
        wait_for(lambda: replica.info("replication")["master_link_status"] == "up")
        sentinel = stack.enter_context(
            node(folder / "sentinel", sentinel_port, "--sentinel", config=watched)
        )
        wait_for(lambda: _replicas(sentinel) == 1)
        connection = await stack.enter_async_context(
            opened(f"redis+sentinel://{HOST}:{sentinel_port}/{SERVICE}")
        )
        broker = Broker(connection, keys, max_open_requests=10, result_ttl_s=60)
        queue = LmQueue(connection, keys, "model", lease_s=60, result_ttl_s=60)
        await broker.ready("model")
        await broker.submit(pb.Job(request_id="r", fingerprint="model", timeout_ms=60_000), None)
        [lease] = await queue.claim(1)
        assert await queue.append([Append(lease, 0, pb.JournalTokens(ids=[5]))]) == ["ok"]
        master.wait(1, 5000)  # what a replica has is what a failover keeps
        os.kill(master.info("server")["process_id"], signal.SIGKILL)
        end = pb.JournalEnd(kind=pb.END_KIND_LENGTH, token_count=2)
        append = Append(lease, 1, pb.JournalTokens(ids=[6]), end)
        assert await asyncio.wait_for(retry_until_available(queue.append, [append]), 30) == ["ok"]
        assert replica.info("replication")["role"] == "master"
        events = [event async for event in events_of(broker.follow_journal, "r")]
        assert [list(e.ids) for e in events if isinstance(e, pb.JournalTokens)] == [[5], [6]]


def _replicas(sentinel: Redis) -> int:
    state: dict[str, int] = sentinel.sentinel_master(SERVICE)  # type: ignore[assignment]
    return state["num-slaves"]
