"""The client for asyncio against small real gRPC servers that lose connections."""

import asyncio
import math
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from glm4v.client import AsyncClient, channel, gateways
from glm4v.client.async_generation import AsyncGeneration
from glm4v.client.messages import user_message
from glm4v.errors import (
    Cancelled,
    DeadlinePassed,
    Glm4vError,
    InvalidRequest,
    Overloaded,
    RequestFailed,
    Unavailable,
)
from glm4v.v1 import inference_pb2 as pb
from tests import scripted_gateway
from tests.gateway_process import SENT, gateway_process
from tests.processes import until
from tests.scripted_gateway import (
    ANSWER,
    FINISHED,
    STAGES,
    ScriptedGateway,
    accepted,
    delta,
    serving,
    whole,
)

QUESTION = [user_message("?")]


@asynccontextmanager
async def asking(gateway: ScriptedGateway, **options: Any) -> AsyncIterator[AsyncClient]:
    with serving(gateway) as (target, _):
        async with AsyncClient(target, **options) as client:
            yield client


async def every(generation: AsyncGeneration) -> list[pb.GenerationEvent]:
    return [event async for event in generation]


def check_exactly_once(generation: AsyncGeneration, events: list[pb.GenerationEvent]) -> None:
    assert events == whole(generation.request_id)
    assert generation.token_ids == [100 + i for i in range(len(ANSWER))]
    assert generation.finished is not None


@pytest.mark.parametrize("sent", range(len(whole("x"))))
async def test_a_stream_broken_anywhere_goes_on_without_loss_or_repetition(sent: int) -> None:
    gateway = ScriptedGateway([sent])
    async with asking(gateway) as client, client.generate(QUESTION) as generation:
        check_exactly_once(generation, await every(generation))
    [(first, request_id, _), (second, again, offset)] = gateway.calls
    assert (first, request_id) == ("generate", again)
    assert second == ("attach" if sent else "generate")
    assert offset == max(0, sent - 1 - len(STAGES))


async def test_a_stream_that_ends_without_finished_goes_on() -> None:
    gateway = ScriptedGateway([6])
    gateway.status = (grpc.StatusCode.OK, "")
    async with asking(gateway) as client, client.generate(QUESTION) as generation:
        check_exactly_once(generation, await every(generation))


@pytest.mark.parametrize("offset", [0, 4])
async def test_attach_yields_what_follows_the_offset(offset: int) -> None:
    gateway = ScriptedGateway([1])
    async with asking(gateway) as client, client.attach("r", offset) as generation:
        assert await generation.text() == "".join(ANSWER[offset:]) + "。"
    assert gateway.calls == [("attach", "r", offset)] * 2
    assert gateway.cancelled == []


@pytest.mark.parametrize("read", range(len(whole("x"))))
async def test_a_cancelled_read_loses_nothing(read: int) -> None:
    """The gateway is silent after `read` events; who waits for the next one loses patience."""
    gateway = ScriptedGateway([read])
    gateway.hangs = True
    async with asking(gateway) as client, client.generate(QUESTION) as generation:
        events = [await anext(generation) for _ in range(read)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(generation), 0.1)
        check_exactly_once(generation, events + await every(generation))
    assert len(gateway.calls) == 2


async def test_a_cancelled_pause_loses_nothing() -> None:
    gateway = ScriptedGateway([6, 0, 0, 0])
    async with asking(gateway) as client, client.generate(QUESTION) as generation:
        events = [await anext(generation) for _ in range(6)]
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(generation), 0.04)
        check_exactly_once(generation, events + await every(generation))


@pytest.mark.parametrize("read", [0, 1, 6])
async def test_a_cancelled_task_cancels_its_request(read: int) -> None:
    gateway = ScriptedGateway([read])
    gateway.hangs = True
    is_reading = asyncio.Event()

    async def ask(client: AsyncClient) -> None:
        async with client.generate(QUESTION, request_id="mine") as generation:
            for _ in range(read):
                await anext(generation)
            is_reading.set()
            await anext(generation)

    async with asking(gateway) as client:
        task = asyncio.create_task(ask(client))
        await is_reading.wait()
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gateway.cancelled == ["mine"]
        assert await asyncio.to_thread(gateway.left.wait, 10)


async def test_a_task_cancelled_twice_still_cancels_its_request() -> None:
    """As a cancel scope of anyio or the end of an event loop does."""
    gateway = ScriptedGateway([2])
    gateway.hangs = True

    async def ask(client: AsyncClient) -> None:
        async with client.generate(QUESTION, request_id="mine") as generation:
            await every(generation)

    async with asking(gateway) as client:
        task = asyncio.create_task(ask(client))
        await until(lambda: gateway.calls != [])
        await asyncio.sleep(0.2)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
    assert gateway.cancelled == ["mine"]  # closing the client waited for it


async def test_a_stream_that_was_never_read_asks_for_nothing() -> None:
    gateway = ScriptedGateway([])
    async with asking(gateway) as client, client.generate(QUESTION):
        pass
    assert gateway.calls == []
    assert gateway.cancelled == []


async def test_leaving_an_attached_request_lets_it_run() -> None:
    gateway = ScriptedGateway([6])
    gateway.hangs = True
    async with asking(gateway) as client:
        async with client.attach("r") as generation:
            await anext(generation)
        assert await asyncio.to_thread(gateway.left.wait, 10)
    assert gateway.cancelled == []


@pytest.mark.parametrize("closed", ["stream", "client"])
async def test_a_stream_closed_by_another_task_is_not_opened_again(closed: str) -> None:
    gateway = ScriptedGateway([2])
    gateway.hangs = True
    async with asking(gateway) as client, client.generate(QUESTION) as generation:
        reading = asyncio.create_task(every(generation))
        await until(lambda: gateway.calls != [])
        await asyncio.sleep(0.2)
        await (generation if closed == "stream" else client).close()
        with pytest.raises(Cancelled):
            await reading
    assert len(gateway.calls) == 1


async def test_tokens_out_of_order_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_gap(request_id: str, offset: int = 0) -> list[pb.GenerationEvent]:
        return [accepted(request_id), delta(0), delta(2), FINISHED]

    monkeypatch.setattr(scripted_gateway, "whole", with_gap)
    async with asking(ScriptedGateway([])) as client:
        with pytest.raises(RequestFailed, match="expected token index 1, got 2"):
            await every(client.generate(QUESTION))


async def test_a_status_becomes_the_error_of_its_kind() -> None:
    gateway = ScriptedGateway([2])
    gateway.status = (grpc.StatusCode.RESOURCE_EXHAUSTED, "17 seen, 16 allowed")
    async with asking(gateway) as client:
        with pytest.raises(Overloaded, match=r"^17 seen, 16 allowed$"):
            await every(client.generate(QUESTION))
    assert len(gateway.calls) == 1


async def test_what_breaks_before_it_is_accepted_is_tried_a_few_times() -> None:
    gateway = ScriptedGateway([0] * 1000)
    gateway.status, gateway.is_marked = (grpc.StatusCode.UNKNOWN, "Stream removed"), False
    image = [user_message("?", bytes(2 * 2**20))]
    async with asking(gateway, retry_timeout_s=60) as client:
        for ask in (client.count_tokens(image), every(client.generate(image))):
            with pytest.raises(Unavailable, match=r"Stream removed\), 5 times; the message has"):
                await ask
    assert len(gateway.calls) == 5


async def test_short_calls_are_tried_again() -> None:
    gateway = ScriptedGateway([0, 0])
    async with asking(gateway) as client:
        assert (await client.count_tokens([user_message("four")])).prompt_tokens == 4
        assert (await client.get_model()).name == "micro"
        assert await client.cancel("a") is True
        assert await client.cancel("a") is False
    assert gateway.breaks == []


async def test_a_silent_gateway_is_left_at_the_deadline() -> None:
    gateway = ScriptedGateway([1])
    gateway.hangs = True
    async with asking(gateway) as client:
        with pytest.raises(DeadlinePassed, match=r"no complete answer within 0.5 s"):
            await every(client.generate(QUESTION, timeout_s=0.5))


async def test_nobody_there_is_told_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = rf"^127.0.0.1:{port} was .*refused.*there\?$"
    async with AsyncClient(f"127.0.0.1:{port}", retry_timeout_s=0.3) as client:
        for ask in (client.get_model(), every(client.generate(QUESTION)), client.connect(0.3)):
            with pytest.raises(Unavailable, match=said):
                await ask


async def test_a_frozen_gateway_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "KEEPALIVE_MS", 500)
    monkeypatch.setattr(channel, "PING_TIMEOUT_MS", 500)
    monkeypatch.setattr(gateways, "randrange", lambda _: 0)
    with gateway_process(pause_s=1000) as (first, process), serving(ScriptedGateway([])) as second:
        async with (
            AsyncClient(first, second[0]) as client,
            client.generate(QUESTION) as generation,
        ):
            events = [await anext(generation) for _ in range(SENT)]
            process.send_signal(signal.SIGSTOP)
            started = time.monotonic()
            check_exactly_once(generation, events + await every(generation))
    assert time.monotonic() - started < 20


async def test_a_thousand_requests_at_once() -> None:
    async with asking(ScriptedGateway([])) as client:
        answers = [client.generate(QUESTION) for _ in range(1000)]
        texts = await asyncio.gather(*(answer.text() for answer in answers))
    assert set(texts) == {"".join(ANSWER) + "。"}


@pytest.mark.parametrize("timeout_s", [math.nan, 0.0, -1.0])
async def test_a_timeout_that_is_none_is_refused_as_a_value(timeout_s: float) -> None:
    with pytest.raises(InvalidRequest, match="timeout_s is"):
        AsyncClient(timeout_s=timeout_s)
    async with AsyncClient() as client:
        with pytest.raises(InvalidRequest, match="timeout_s is"):
            client.generate(QUESTION, timeout_s=timeout_s)


async def test_a_closed_client_says_so() -> None:
    client = AsyncClient()
    await client.close()
    with pytest.raises(Glm4vError, match="this client is closed"):
        await client.get_model()
    with pytest.raises(Glm4vError, match="this client is closed"):
        await client.generate(QUESTION).text()
