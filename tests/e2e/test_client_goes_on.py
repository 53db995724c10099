"""The Python client goes on: its gateway is killed, and an image that it had sent expires."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from glm4v.client import AsyncClient, Client, GenerateOptions
from glm4v.v1 import inference_pb2 as api
from tests.e2e.asking import TOKENS, ask, digest_of, draw, encodes
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader

pytestmark = pytest.mark.asyncio(loop_scope="session")
KILLED_AT = 3  # tokens
OPTIONS: GenerateOptions = {
    "temperature": 1.0,
    "top_p": 1.0,
    "seed": 5,
    "max_tokens": TOKENS,
    "ignore_eos": True,
}


async def read(targets: list[str], messages: list[api.Message], kill: Callable[[], None]) -> str:
    """The text, read with asyncio."""
    async with (
        AsyncClient(*targets) as client,
        client.generate(messages, **OPTIONS) as answer,
    ):
        async for event in answer:
            if event.delta.first_index == KILLED_AT:
                kill()
        return answer.choices[0].text


def read_in_a_thread(
    targets: list[str], messages: list[api.Message], kill: Callable[[], None]
) -> str:
    """The text, read without asyncio."""
    with (
        Client(*targets) as client,
        client.generate(messages, **OPTIONS) as answer,
    ):
        for event in answer:
            if event.delta.first_index == KILLED_AT:
                kill()
        return answer.text


@pytest.mark.parametrize("way", ["asyncio", "thread"])
async def test_its_gateway_is_killed_in_the_middle_of_an_answer(
    fleet: Fleet, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.only("gateway", "gateway-2", "vision_worker", "slow_lm_worker")
    monkeypatch.setattr("glm4v.client.gateways.randrange", lambda _: 0)
    targets = [fleet.target("gateway"), fleet.target("gateway-2")]
    question = ask("go on", draw("client goes on"), seed=5)
    async with Reader(targets[1:]) as reader:
        undisturbed = await reader.read(question)

    def kill() -> None:
        fleet.signal("gateway", signal.SIGKILL)

    messages = list(question.messages)
    if way == "asyncio":
        text = await read(targets, messages, kill)
    else:
        text = await asyncio.to_thread(read_in_a_thread, targets, messages, kill)
    assert text == undisturbed.text
    assert await fleet.ended("gateway") == -signal.SIGKILL


async def test_an_image_that_redis_has_let_go_is_sent_again(fleet: Fleet) -> None:
    """The embedding is gone too, so that an answer without the bytes is impossible."""
    await fleet.only("gateway", "vision_worker", "lm_worker")
    image = draw("let go")
    messages = list(ask("still there?", image).messages)
    async with AsyncClient(fleet.target()) as client:
        first = await client.generate(messages, **OPTIONS).text()
        assert await client.generate(messages, **OPTIONS).text() == first
        async for key in fleet.connection.commands.scan_iter(f"*{digest_of(image)}*"):
            await fleet.connection.commands.delete(key)
        assert await client.generate(messages, **OPTIONS).text() == first
    assert encodes(fleet, image) == 2
