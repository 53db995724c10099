"""What becomes of requests while Redis cannot answer, or will not."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import anyio
import pytest

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.lm_queue import LmQueue
from glm4v.broker.readers import READER_GRACE_S
from glm4v.errors import Unavailable
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.local.redis_server import RedisServer
from tests.journal_events import events_of
from tests.processes import until


def job(name: str, *, orphan_timeout_s: float = 60.0) -> pb.Job:
    return pb.Job(
        request_id=name,
        fingerprint="model",
        prompt_ids=[1],
        max_tokens=4,
        timeout_ms=600_000,
        orphan_timeout_ms=int(1000 * orphan_timeout_s),
        content_digest=name.encode(),
    )


@pytest.fixture
async def gateways(own_redis: RedisServer, keys: Keys) -> AsyncIterator[list[Broker]]:
    """What two gateways ask of it."""
    connections = [Connection(own_redis.url) for _ in range(2)]
    brokers = [Broker(each, keys, max_open_requests=10, result_ttl_s=60) for each in connections]
    for broker in brokers:
        await broker.ready("model")
    running = [asyncio.create_task(broker.run()) for broker in brokers]
    yield brokers
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for connection in connections:
        await connection.close()


async def test_who_is_read_is_not_abandoned_when_redis_was_away_for_longer_than_it_lingers(
    own_redis: RedisServer, gateways: list[Broker]
) -> None:
    events: list[object] = []

    async def read() -> None:
        async for event in events_of(gateways[0].follow_journal, "read"):
            events.append(event)

    await gateways[1].submit(job("read", orphan_timeout_s=0.1), None)
    reading = asyncio.create_task(read())
    await until(lambda: len(events) == 2)
    os.kill(own_redis.pid, signal.SIGSTOP)
    await asyncio.sleep(READER_GRACE_S + 2.0)
    os.kill(own_redis.pid, signal.SIGCONT)
    await asyncio.sleep(3.0)
    assert not reading.done()
    assert len(events) == 2
    reading.cancel()


async def test_a_master_without_its_replicas_is_waited_for(
    own_redis: RedisServer, keys: Keys, gateways: list[Broker]
) -> None:
    connection = Connection(own_redis.url)
    queue = LmQueue(connection, keys, "model", lease_s=60, result_ttl_s=60)
    await connection.commands.config_set("min-replicas-to-write", 1)
    for call in (gateways[0].submit(job("r"), None), queue.claim(1), queue.ready()):
        with pytest.raises(Unavailable, match="temporarily rejecting writes: NOREPLICAS"):
            await call
    await connection.commands.config_set("min-replicas-to-write", 0)
    await gateways[0].submit(job("r"), None)
    assert [lease.request_id for lease in await queue.claim(1)] == ["r"]
    await connection.close()


async def test_a_blocking_read_that_is_sent_away_is_made_again(
    own_redis: RedisServer, keys: Keys, gateways: list[Broker]
) -> None:
    """As by a master that becomes a replica."""
    connection = Connection(own_redis.url)
    queue = LmQueue(connection, keys, "model", lease_s=60, result_ttl_s=60)
    claiming = asyncio.create_task(queue.claim(1, wait_s=30))
    clients: list[dict[str, str]] = []
    with anyio.fail_after(10):
        while not clients:
            await asyncio.sleep(0.05)
            listed = await connection.commands.client_list()
            clients = [each for each in listed if each["cmd"] == "xreadgroup"]
    assert await connection.commands.client_unblock(int(clients[0]["id"]), error=True)
    with pytest.raises(Unavailable, match="UNBLOCKED"):
        await claiming
    await connection.close()
