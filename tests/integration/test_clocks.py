"""A gateway whose clock is hours behind or ahead of Redis: deadlines and times are Redis' own."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from gateway.admission.admission import Admission, AdmissionLimits
from gateway.admission.sampling import SamplingDefaults
from gateway.streaming.reader import Reader
from glm4v.broker import Broker, Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.errors import DeadlinePassed
from glm4v.images import ImageLimits
from glm4v.v1 import inference_pb2 as api
from tests.integration.gateway_bench import ScriptedWorker, ask, length_end, text_of
from tests.vocabularies import byte_tokenizer

MODEL = "model-a"
AWAY_S = 7200.0


class Gateway:
    """The parts of a gateway that know of times, without gRPC, which has clocks of its own."""

    def __init__(self, broker: Broker, checkpoint: Checkpoint) -> None:
        self.broker = broker
        limits = AdmissionLimits(ImageLimits(), default_deadline_s=60, max_deadline_s=60)
        params = api.SamplingParams(temperature=0, top_p=1, repetition_penalty=1, typical_p=1)
        defaults, words = SamplingDefaults(params), byte_tokenizer()
        self._admission = Admission(checkpoint.spec, MODEL, words, defaults, limits)
        self._reader = Reader(broker, words, fingerprint=MODEL, image_tokens=18)

    async def submit(self, request_id: str, time_remaining_s: float | None = None) -> None:
        admitted = await self._admission.admit(ask(request_id), time_remaining_s)
        await self.broker.submit(admitted.job, None)

    async def read(self, request_id: str) -> list[api.GenerationEvent]:
        with anyio.fail_after(20):
            return [event async for event in self._reader.events(request_id)]


@pytest.fixture(params=[-AWAY_S, AWAY_S], ids=["behind", "ahead"])
async def gateway(
    request: pytest.FixtureRequest,
    connection: Connection,
    keys: Keys,
    checkpoint_dir: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Gateway]:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + request.param)
    broker = Broker(connection, keys, max_open_requests=5, result_ttl_s=60)
    await broker.ready()
    running = asyncio.create_task(broker.run())
    yield Gateway(broker, Checkpoint.open(checkpoint_dir("micro-glm4v")))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_requests_end_at_their_deadline_and_not_before(
    gateway: Gateway, connection: Connection, keys: Keys
) -> None:
    started = time.monotonic()
    await gateway.submit("answered")
    await gateway.submit("late", 1.0)
    with pytest.raises(DeadlinePassed, match="was not done after"):
        await gateway.read("late")
    late_s = time.monotonic() - started
    assert late_s >= 1.0
    # Swept over at least once, the other goes on; its times are true.
    worker = ScriptedWorker(connection, keys)
    lease = await worker.claim()
    while lease.request_id != "answered":
        lease = await worker.claim()
    await worker.say(lease, "here", length_end())
    events = await gateway.read("answered")
    assert text_of(events) == "here"
    timings = events[-1].finished.timings
    taken_s = time.monotonic() - started
    assert late_s - 0.1 <= timings.time_to_first_token_s <= timings.total_s <= taken_s + 0.1


async def test_the_time_of_redis_is_known_without_asking_it_again(
    gateway: Gateway, connection: Connection
) -> None:
    await gateway.submit("r")
    entries = gateway.broker.read("r")
    await anext(entries)
    known_ms = gateway.broker.now_ms()
    seconds, micros = await connection.commands.time()
    assert abs(known_ms - (seconds * 1000 + micros // 1000)) < 1000
