"""A gateway whose clock is hours behind or ahead of Redis: deadlines and times are Redis' own."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from gateway.access.caller import Caller
from gateway.facade import Gateway
from glm4v.broker import Broker, Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.errors import DeadlinePassed
from glm4v.v1 import inference_pb2 as api
from tests.integration.gateway_bench import (
    ScriptedWorker,
    ask,
    gateway_of,
    length_end,
    running_broker,
    text_of,
)

AWAY_S = 7200.0


@pytest.fixture
async def broker(connection: Connection, keys: Keys, fingerprint: str) -> AsyncIterator[Broker]:
    async with running_broker(connection, keys, fingerprint) as broker:
        yield broker


async def submit(gateway: Gateway, request_id: str, time_limit_s: float | None = None) -> None:
    stream = await gateway.generate(Caller(), ask(request_id), time_limit_s=time_limit_s)
    await stream.aclose()


async def read(gateway: Gateway, request_id: str) -> list[api.GenerationEvent]:
    with anyio.fail_after(20):
        stream = await gateway.attach(Caller(), api.AttachRequest(request_id=request_id))
        async with aclosing(stream):
            return [event async for event in stream]


@pytest.fixture(params=[-AWAY_S, AWAY_S], ids=["behind", "ahead"])
def gateway(
    request: pytest.FixtureRequest,
    broker: Broker,
    checkpoint_dir: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Gateway:
    """A gateway without gRPC, which has clocks of its own."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + request.param)
    return gateway_of(broker, Checkpoint.open(checkpoint_dir("micro-glm4v")))


async def test_requests_end_at_their_deadline_and_not_before(
    gateway: Gateway, connection: Connection, keys: Keys, fingerprint: str
) -> None:
    started = time.monotonic()
    await submit(gateway, "answered")
    await submit(gateway, "late", 1.0)
    with pytest.raises(
        DeadlinePassed, match=r"within .* s; no language worker of model .* is running"
    ):
        await read(gateway, "late")
    late_s = time.monotonic() - started
    assert late_s >= 1.0
    # Swept over at least once, the other goes on; its times are true.
    worker = ScriptedWorker(connection, keys, fingerprint)
    lease = await worker.claim()
    while lease.request_id != "answered":
        lease = await worker.claim()
    await worker.say(lease, "here", length_end())
    events = await read(gateway, "answered")
    assert text_of(events) == "here"
    timings = events[-1].finished.timings
    taken_s = time.monotonic() - started
    assert late_s - 0.1 <= timings.time_to_first_token_s <= timings.total_s <= taken_s + 0.1


async def test_the_time_of_redis_is_known_without_asking_it_again(
    gateway: Gateway, broker: Broker, connection: Connection
) -> None:
    await submit(gateway, "r")
    known_ms = broker.now_ms()
    seconds, micros = await connection.commands.time()
    assert abs(known_ms - (seconds * 1000 + micros // 1000)) < 1000
