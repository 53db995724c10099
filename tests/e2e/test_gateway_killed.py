"""kill -9 and SIGTERM of the gateway while it streams."""

import asyncio
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest

from glm4v.client import Client
from glm4v.client.failure import is_retryable
from glm4v.v1 import inference_pb2 as api
from tests.e2e.asking import TOKENS, again, ask, assert_unharmed, draw
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader, Reading
from tests.proxies import running

pytestmark = pytest.mark.asyncio(loop_scope="session")
LM = "slow_lm_worker"


@pytest.mark.parametrize("tokens", range(0, TOKENS, 3))
async def test_killed_clients_go_on_through_another_gateway(fleet: Fleet, tokens: int) -> None:
    await fleet.only("gateway", "gateway-2", "vision_worker", LM)
    most = 2 * TOKENS  # so that the answer goes on while the signal is on its way
    questions = [
        ask("why", max_tokens=most),
        ask("what", draw("gateway killed"), seed=5, max_tokens=most),
    ]
    first, second = fleet.target("gateway"), fleet.target("gateway-2")
    async with Reader([second]) as elsewhere:
        undisturbed = [await elsewhere.read(question) for question in questions]
        for question, expected in zip(questions, undisturbed, strict=True):
            async with Reader([first, second]) as reader:
                reading, is_killed = Reading(again(question)), False
                async for _ in reader.events(reading):
                    if len(reading.token_ids) >= tokens and not is_killed:
                        is_killed = True  # what it had sent still arrives
                        await fleet.kill("gateway")
                await assert_unharmed(fleet, reading, expected)
                assert reading.interruptions > 0
            await fleet.start("gateway")


async def test_clients_come_back_to_a_gateway_that_was_started_again(fleet: Fleet) -> None:
    await fleet.only("gateway", LM)
    question = ask("again", seed=11)
    async with Reader(fleet.targets[:1]) as reader:
        undisturbed = await reader.read(question)
        reading = Reading(again(question))
        async for _ in reader.events(reading):
            if len(reading.token_ids) == 4 and not reading.interruptions:
                await fleet.kill("gateway")
                await fleet.start("gateway", wait=False)
        await assert_unharmed(fleet, reading, undisturbed)


async def test_a_draining_gateway_sends_its_clients_elsewhere(fleet: Fleet) -> None:
    await fleet.only("gateway", "gateway-2", LM)
    question = ask("drain", max_tokens=40)
    first, second = fleet.target("gateway"), fleet.target("gateway-2")
    async with Reader([first]) as only_first, Reader([second]) as other:
        undisturbed = await other.read(question)
        reading = Reading(again(question))
        async for _ in only_first.events(reading):
            if len(reading.token_ids) == 3:
                fleet.signal("gateway", signal.SIGTERM)
                assert await fleet.ended("gateway") == 0
                break
        assert 0 < len(reading.token_ids) < 40  # it did not wait for the answer
        await other.read_on(reading)
        await assert_unharmed(fleet, reading, undisturbed)


async def test_the_python_client_comes_back_by_itself(fleet: Fleet) -> None:
    await fleet.only("gateway", "gateway-2", LM)
    question = ask("client", seed=2)
    async with Reader([fleet.target("gateway-2")]) as reader:
        undisturbed = await reader.read(question)
    three_tokens = asyncio.Event()
    reading = asyncio.create_task(read_in_a_thread(fleet.target(), question, three_tokens))
    await three_tokens.wait()
    await fleet.kill("gateway")
    await fleet.start("gateway")
    assert await reading == undisturbed.token_ids


@pytest.mark.needs_haproxy
async def test_the_python_client_comes_back_through_a_proxy(fleet: Fleet, tmp_path: Path) -> None:
    await fleet.only("gateway", "gateway-2", LM)
    question = ask("proxy", seed=2)
    async with Reader(fleet.targets) as reader:
        undisturbed = await reader.read(question)
    addresses = [target.replace("unix:", "unix@") for target in fleet.targets]
    three_tokens = asyncio.Event()
    with running("haproxy", addresses, tmp_path) as proxy:
        reading = asyncio.create_task(read_in_a_thread(proxy, question, three_tokens))
        await three_tokens.wait()
        await fleet.kill("gateway")  # one of both has the stream
        await fleet.kill("gateway-2")
        await fleet.start("gateway-2")
        assert await reading == undisturbed.token_ids


async def read_in_a_thread(
    target: str, question: api.GenerateRequest, three_tokens: asyncio.Event
) -> list[int]:
    """The tokens of an answer, read with the Python client."""
    loop = asyncio.get_running_loop()

    def read() -> list[int]:
        with (
            Client(target) as client,
            client.generate(
                question.messages,
                temperature=1,
                top_p=1,
                seed=2,
                max_tokens=TOKENS,
                ignore_eos=True,
            ) as answer,
        ):
            for _ in answer:
                if len(answer.token_ids) == 3:
                    loop.call_soon_threadsafe(three_tokens.set)
            assert answer.finished is not None
            return answer.token_ids

    return await asyncio.to_thread(read)


async def test_who_calls_a_draining_gateway_is_told_to_come_back(fleet: Fleet) -> None:
    """Whatever arrives while it ends: nobody is told that somebody cancelled the call."""
    codes: Counter[grpc.StatusCode] = Counter()

    async def call(stub: Any) -> None:
        while "gateway" in fleet.running:
            try:
                await stub.Cancel(api.CancelRequest(request_id="unknown"), timeout=10)
            except grpc.aio.AioRpcError as error:
                is_away = is_retryable(error)
                codes[grpc.StatusCode.UNAVAILABLE if is_away else error.code()] += 1
                await asyncio.sleep(0.01)

    for _ in range(3):
        await fleet.only("gateway")
        async with Reader([fleet.target()] * 8) as reader, anyio.create_task_group() as group:
            for stub in reader.stubs * 8:
                group.start_soon(call, stub)
            await asyncio.sleep(0.2)
            fleet.signal("gateway", signal.SIGTERM)
            assert await fleet.ended("gateway") == 0
    assert codes.keys() == {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE}
