"""A gateway whose Redis is away, full, or has lost something."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import grpc
import pytest

import gateway.streaming.choice
from glm4v.broker import Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.local.redis_server import RedisServer
from glm4v.v1 import inference_pb2 as api
from tests.integration.gateway_bench import (
    Call,
    RunningGateway,
    ScriptedWorker,
    ask,
    attach,
    collect,
    read_until,
    refusal,
    running_gateway,
    text_of,
    tokens_of,
)

Code = grpc.StatusCode


@pytest.fixture
async def connection(own_redis: RedisServer) -> AsyncIterator[Connection]:
    connection = Connection(own_redis.url)
    yield connection
    await connection.close()


@pytest.fixture
async def one(
    connection: Connection, keys: Keys, checkpoint_dir: Callable[[str], Path]
) -> AsyncIterator[RunningGateway]:
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    async with running_gateway(connection, keys, checkpoint) as running:
        yield running


@pytest.fixture
def worker(
    connection: Connection, keys: Keys, one: RunningGateway, fingerprint: str
) -> ScriptedWorker:
    return ScriptedWorker(connection, keys, fingerprint)


async def test_nobody_waits_past_the_deadline(
    one: RunningGateway, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.streaming.choice, "END_GRACE_S", 0.3)
    first = one.stub.Generate(ask(), timeout=1)
    await first.read()
    reader = one.stub.Attach(attach())
    assert [(await reader.read()) is not grpc.aio.EOF for _ in range(2)] == [True, True]
    # A call that goes all the way to Redis: meanwhile the reader has begun to wait.
    await refusal(one.stub.Cancel(api.CancelRequest(request_id="nobody")))
    own_redis.stop()
    code, message = await refusal(reader)
    assert code == Code.DEADLINE_EXCEEDED
    assert "its end cannot be read" in message
    code, message = await refusal(one.stub.Generate(ask("other")))
    assert code == Code.UNAVAILABLE


async def test_a_stop_string_that_is_found_while_redis_is_full_still_ends_the_answer(
    one: RunningGateway, worker: ScriptedWorker, connection: Connection
) -> None:
    call = one.stub.Generate(ask(stop=["b"]))
    await call.read()
    lease = await worker.claim()
    call.cancel()
    await worker.say(lease, "ab")
    await connection.commands.config_set("maxmemory", 1)
    reading = asyncio.create_task(collect(one.stub.Attach(attach())))
    await asyncio.sleep(1.0)
    assert not reading.done()
    await connection.commands.config_set("maxmemory", 0)
    events = await reading
    assert text_of(events) == "a"
    assert events[-1].finished.reason == api.FINISH_REASON_STOP


async def test_a_reader_of_a_request_that_was_lost_is_told_so(
    one: RunningGateway, worker: ScriptedWorker, connection: Connection
) -> None:
    """As by a failover to a replica that had not seen it yet."""
    call = one.stub.Generate(ask())
    await call.read()
    await worker.claim()
    await connection.commands.flushall()
    code, message = await refusal(call)
    assert code == Code.NOT_FOUND
    assert "'r' is unknown" in message


async def test_a_reader_never_skips_tokens_that_were_lost(
    one: RunningGateway, worker: ScriptedWorker, connection: Connection, keys: Keys
) -> None:
    call = one.stub.Generate(ask())
    lease = await worker.claim()
    await worker.say(lease, "a")
    await read_until(call, "a")
    journal = keys.journal("r")
    [(_, fields)] = await connection.commands.xrevrange(journal, count=1)
    await connection.commands.xadd(journal, {**fields, b"n": 3})  # token 1 is nowhere
    seen, error = await until_it_fails(call)
    assert tokens_of(seen) == []
    assert error.code() == Code.UNAVAILABLE
    assert error.details() == "entries of request 'r' were lost before they were read; attach again"
    seen, error = await until_it_fails(one.stub.Attach(attach()))
    assert tokens_of(seen) == list(b"a"), "what comes before the gap"
    assert error.code() == Code.ABORTED
    assert error.details() == "entries are missing in the journal of request 'r'"


async def until_it_fails(
    call: Call,
) -> tuple[list[api.GenerationEvent], grpc.aio.AioRpcError]:
    """The events of a call before it fails, and how."""
    seen: list[api.GenerationEvent] = []
    try:
        with anyio.fail_after(10):
            while True:
                reply = await call.read()
                assert isinstance(reply, api.GenerateResponse | api.AttachResponse)
                seen.append(reply.event)
    except grpc.aio.AioRpcError as error:
        return seen, error
