"""kill -9 and SIGTERM of the gateway while it streams over HTTP."""

import json
import re
import signal
import uuid
from typing import Any

import pytest

from tests.e2e.event_source import EventStream, follow
from tests.e2e.fleet import Fleet

pytestmark = pytest.mark.asyncio(loop_scope="session")
LM = "slow_lm_worker"
CHAT = "/v1/chat/completions"
TOKENS = 24


def chat(**fields: Any) -> dict[str, Any]:
    """A greedy question with an answer of a fixed length."""
    return {
        "messages": [{"role": "user", "content": "why"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_tokens": TOKENS,
        "ignore_eos": True,
        **fields,
    }


def same(stream: EventStream) -> list[str]:
    """The data of events, without what differs between requests and connections."""
    text = "\n".join(data for _, data in stream.events)
    return re.sub(r'"(id":"chatcmpl-[^"]+|created":\d+)', "", text).split("\n")


async def read(fleet: Fleet, names: list[str], body: dict[str, Any]) -> EventStream:
    """A whole stream that nothing disturbs."""
    stream = EventStream()
    async for _ in follow(stream, [fleet.http_path(name) for name in names], CHAT, body):
        pass
    assert not stream.interruptions
    return stream


@pytest.mark.parametrize(("events", "n"), [(1, 1), (5, 1), (TOKENS // 2, 1), (5, 2)])
async def test_a_stream_goes_on_through_another_gateway(fleet: Fleet, events: int, n: int) -> None:
    await fleet.only("gateway", "gateway-2", LM)
    body = chat(n=n, seed=3, temperature=1, top_p=1)
    expected = await read(fleet, ["gateway-2"], body)
    sockets = [fleet.http_path("gateway"), fleet.http_path("gateway-2")]
    stream = EventStream()
    async for _ in follow(stream, sockets, CHAT, body):
        if len(stream.events) == events and not stream.interruptions:
            await fleet.kill("gateway")
    assert stream.interruptions == 1
    assert stream.events[-1] == ("message", "[DONE]")
    if n == 1:
        assert same(stream) == same(expected)
    assert sorted(same(stream)) == sorted(same(expected))  # choices come in any order
    await fleet.start("gateway")


async def test_a_request_with_a_key_survives_before_its_first_event(fleet: Fleet) -> None:
    await fleet.only("gateway", "gateway-2")  # no worker yet
    sockets = [fleet.http_path("gateway"), fleet.http_path("gateway-2")]
    key, stream = uuid.uuid4().hex, EventStream()
    events = follow(stream, sockets, CHAT, chat(), **{"idempotency-key": key})
    assert "assistant" in (await anext(events))[1]
    await fleet.kill("gateway")
    await fleet.start("gateway", LM)
    rest = [data async for _, data in events]
    assert json.loads(rest[-2])["usage"]["completion_tokens"] == TOKENS
    again = EventStream()  # a new stream of the same request
    async for _ in follow(again, sockets, CHAT, chat(), **{"idempotency-key": key}):
        pass
    assert again.events[0][1].startswith(f'{{"id":"chatcmpl-{key}"')
    assert same(again) == same(stream)


async def test_a_draining_gateway_says_where_the_stream_stands(fleet: Fleet) -> None:
    await fleet.only("gateway", "gateway-2", LM)
    body = chat(max_tokens=60)
    expected = await read(fleet, ["gateway-2"], body)
    stream = EventStream()
    async for kind, data in follow(stream, [fleet.http_path("gateway")], CHAT, body):
        if len(stream.events) == 3:
            fleet.signal("gateway", signal.SIGTERM)
        if kind == "error":
            assert json.loads(data)["error"]["code"] == 503
    assert stream.events.pop()[0] == "error"
    assert await fleet.ended("gateway") == 0
    async for _ in follow(stream, [fleet.http_path("gateway-2")], CHAT, body):
        pass
    assert same(stream) == same(expected)
    await fleet.start("gateway")
