"""kill -9 in the middle of several answers to one prompt, and of answers that have a form."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from glm4v.client import Client
from glm4v.client.messages import user_message
from glm4v.client.options import GenerateOptions
from glm4v.v1 import inference_pb2 as api
from tests.e2e.asking import draw
from tests.e2e.fleet import Fleet

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]
LM = "slow_lm_worker"
MAX_TOKENS = 16
# Most of it is forced, in runs of several tokens.
SHAPE = json.dumps({"type": "array", "items": {"enum": ["a tabby", "a big dog"]}, "minItems": 2})

Answers = list[tuple[list[int], str]]


def options(**more: Any) -> GenerateOptions:
    asked: GenerateOptions = {
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 21,
        "max_tokens": MAX_TOKENS,
    }
    return asked | more  # type: ignore[return-value]


def read(
    target: str, asked: GenerateOptions, tokens: int = 0, then: Callable[[], None] = lambda: None
) -> Answers:
    """All choices; `then` is called once when `tokens` have come, of all together."""
    is_called = False
    with (
        Client(target, timeout_s=60) as client,
        client.generate([user_message("several", draw("several"))], **asked) as generation,
    ):
        for _ in generation:
            if not is_called and sum(len(each.token_ids) for each in generation.choices) >= tokens:
                is_called = True
                then()
        assert is_called
        return [(each.token_ids, each.text) for each in generation.choices]


async def interrupted(fleet: Fleet, victim: str, asked: GenerateOptions, tokens: int) -> Answers:
    """What a client reads while a process is killed and started again."""
    loop = asyncio.get_running_loop()

    async def restart() -> None:
        await fleet.kill(victim)
        await fleet.start(victim)

    def kill() -> None:
        asyncio.run_coroutine_threadsafe(restart(), loop).result(30)

    return await asyncio.to_thread(read, fleet.target(), asked, tokens, kill)


@pytest.mark.parametrize("victim", [LM, "gateway"])
@pytest.mark.parametrize("best_of", [3, 5])
async def test_several_answers_survive(fleet: Fleet, victim: str, best_of: int) -> None:
    await fleet.only("gateway", "vision_worker", LM)
    asked = options(n=3, best_of=best_of, ignore_eos=True)
    undisturbed = await asyncio.to_thread(read, fleet.target(), asked)
    assert len({text for _, text in undisturbed}) == 3
    assert [len(tokens) for tokens, _ in undisturbed] == [MAX_TOKENS] * 3
    for tokens in (0, 1, 20, 40) if best_of == 3 else (0,):
        assert await interrupted(fleet, victim, asked, tokens) == undisturbed


@pytest.mark.parametrize("victim", [LM, "gateway"])
async def test_an_answer_in_a_form_survives(fleet: Fleet, victim: str) -> None:
    await fleet.only("gateway", "vision_worker", LM)
    asked = options(response_format=api.ResponseFormat(json_schema=SHAPE), n=2)
    undisturbed = await asyncio.to_thread(read, fleet.target(), asked)
    for tokens in (1, 5, 11):
        assert await interrupted(fleet, victim, asked, tokens) == undisturbed
